"""The packed set as batches of tensors for training."""

import os
import signal
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sg3flow.data.archive import PackedSet
from sg3flow.data.sampler import WindowedShuffle
from sg3flow.errors import Sg3flowError

Batch = tuple[torch.Tensor, torch.Tensor]


class TrainingSet(Dataset[Batch]):
    """Items of a packed set, twice as many with ``mirror``: n .. 2n-1 are the flipped ones.

    An item is (image uint8 [C, H, W], label float32 [label_dim]); label_dim is 0 unless ``labels``.
    """

    def __init__(self, packed: PackedSet, *, mirror: bool = False, labels: bool = False) -> None:
        self.packed, self.mirror, self.use_labels = packed, mirror, labels

    def __len__(self) -> int:
        return self.packed.num_images * (2 if self.mirror else 1)

    def __getitem__(self, index: int) -> Batch:
        index, flipped = index % self.packed.num_images, index >= self.packed.num_images
        image = self.packed.image(index)  # [H, W, C]
        if flipped:
            image = image[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels, self.label(index)

    @property
    def label_dim(self) -> int:
        """Length of a label; 0 without labels."""
        return self.packed.label_dim if self.use_labels else 0

    def label(self, index: int) -> torch.Tensor:
        """Label of an item, float32 [label_dim]."""
        if not self.use_labels:
            return torch.zeros(0)
        return torch.from_numpy(self.packed.label(index % self.packed.num_images))


class _Stream(IterableDataset[Batch | Sg3flowError]):
    """The batches of a sampler, dealt out to the reading processes in turn.

    A picture that cannot be read comes as a value: an exception would cross the border between the
    processes as the text of a traceback.
    """

    def __init__(self, items: TrainingSet, sampler: WindowedShuffle, batch: int) -> None:
        self.items, self.sampler, self.batch = items, sampler, batch

    def __iter__(self) -> Iterator[Batch | Sg3flowError]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        indices = iter(self.sampler)
        for number in range(2**62):
            chosen = list(islice(indices, self.batch))
            if number % step == first:
                try:
                    images, labels = zip(*(self.items[i] for i in chosen), strict=True)
                except Sg3flowError as error:
                    yield error
                    return
                yield torch.stack(images), torch.stack(labels)


def endless_batches(
    items: TrainingSet, sampler: WindowedShuffle, batch: int, *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Batches in the sampler's order for ever, read ahead by ``workers`` processes.

    Raises:
        DataError: at the batch that holds a picture which cannot be read.
    """
    loader = DataLoader(
        _Stream(items, sampler, batch),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        # A generator of its own: the loader must not draw from the training's random numbers.
        generator=torch.Generator(),
        worker_init_fn=_leave_group,
    )
    # The readers are forked here and now: later, threads would be running.
    return _checked(iter(loader))


def _checked(batches: Iterator[Batch | Sg3flowError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, Sg3flowError):
            raise batch
        yield batch


def _leave_group(worker_id: int) -> None:
    """Ctrl-C and torchrun signal whole process groups: the training decides when reading ends."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
