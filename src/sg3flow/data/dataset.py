"""The order in which training sees the images."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sg3flow.data.archive import PackedSet
from sg3flow.errors import DataError, Sg3flowError

_DRAWS = 1 << 16  # random numbers drawn at a time: drawing one by one is slow


class WindowedShuffle:
    """An endless shuffle that keeps repeats of an item far apart.

    A permutation of the items is walked round and round; after each step the entry is swapped with
    one r places behind it, r uniform in 0 .. round(n/2) - 1. Process k of m takes every m-th item.
    Everything follows from the seed, so a position is reached again by walking there: about a
    second for five million items.
    """

    def __init__(
        self, num_items: int, seed: int, start: int = 0, rank: int = 0, num_processes: int = 1
    ) -> None:
        self.num_items, self.seed, self.start = num_items, seed, start
        self.rank, self.num_processes = rank, num_processes

    def __iter__(self) -> Iterator[int]:
        """Items of this process from global position ``start`` on."""
        for position, item in enumerate(self._walk()):
            if position >= self.start and position % self.num_processes == self.rank:
                yield item

    def _walk(self) -> Iterator[int]:
        random = np.random.Generator(np.random.PCG64(self.seed))
        order = random.permutation(self.num_items).tolist()
        window = max(round(self.num_items / 2), 1)
        position = 0
        while True:
            for distance in random.integers(0, window, _DRAWS).tolist():
                yield order[position]
                other = position - distance  # negative: counted from the end, which is the ring
                order[position], order[other] = order[other], order[position]
                position = (position + 1) % self.num_items


Batch = tuple[torch.Tensor, torch.Tensor]
_MORE_SHARED = (
    "allow more shared memory (docker run --shm-size 8g) or take --workers 0: the same command "
    "goes on"
)


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

    An image that cannot be read comes as a value: an exception would cross the border between the
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
                    batch = torch.stack(images), torch.stack(labels)
                    if worker:
                        _share(batch)
                except Sg3flowError as error:
                    yield error
                    return
                yield batch


def endless_batches(
    items: TrainingSet, sampler: WindowedShuffle, batch: int, *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Batches in the sampler's order for ever, read ahead by ``workers`` processes.

    Raises:
        DataError: at the batch that holds an image which cannot be read, or for which there is no
            shared memory.
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


def _share(batch: Batch) -> None:
    """Put a batch where the training can read it.

    The loader does so itself, in a thread whose errors it only prints: the training then waits for
    ever.
    """
    try:
        for tensor in batch:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"no shared memory for the images that are read ahead ({reason}); {_MORE_SHARED}"
        ) from None


@contextmanager
def lost_readers_named() -> Iterator[None]:
    """Say what to do when a process that reads images was ended.

    Torch tells of it by a signal, at whatever line the block is.

    Raises:
        DataError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"a process that reads images was ended, often for want of memory ({reason}); "
            f"{_MORE_SHARED}"
        ) from None


def _leave_group(worker_id: int) -> None:
    """Ctrl-C and torchrun signal whole process groups: the training decides when reading ends."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
