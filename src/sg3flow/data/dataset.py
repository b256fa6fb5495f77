"""The training data: order of the images, batches, and data loading processes."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sg3flow import distributed
from sg3flow.data.archive import PackedSet
from sg3flow.data.packed_form import is_one_hot
from sg3flow.errors import DataError, Sg3flowError

_RANDOM_NUMBERS = 1 << 16  # generated at a time; one by one is slow


Batch = tuple[torch.Tensor, torch.Tensor]


class WindowedShuffle:
    """An endless shuffle that keeps repeats of an item far apart.

    It cycles through a permutation of the items; after each step it swaps the entry with the one r
    places behind it, r uniform in 0 .. round(n/2) - 1. Process k of m takes every m-th item, from
    item k. The order depends only on the seed, so resuming repeats the steps up to ``start``: about
    a second for five million items.
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
            for distance in random.integers(0, window, _RANDOM_NUMBERS).tolist():
                yield order[position]
                other = position - distance  # negative: counts from the end, which closes the cycle
                order[position], order[other] = order[other], order[position]
                position = (position + 1) % self.num_items


class ClassBatches:
    """The order of a ``WindowedShuffle``, dealt out so that each batch has one class.

    Items wait by class; a class that has a whole batch of them gives it. Process k of m takes every
    m-th item of a batch, from item k.

    Args:
        classes: the class of each item.
        batch: items of a batch over all processes.
        start: global position of the first item, a multiple of ``batch``.
    """

    def __init__(
        self,
        classes: Sequence[int],
        seed: int,
        batch: int,
        start: int = 0,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.classes, self.seed, self.batch = classes, seed, batch
        self.start, self.rank, self.num_processes = start, rank, num_processes

    def __iter__(self) -> Iterator[int]:
        """Items of this process from global position ``start`` on."""
        waiting: dict[int, list[int]] = {}
        position = 0
        for item in WindowedShuffle(len(self.classes), self.seed):
            members = waiting.setdefault(self.classes[item], [])
            members.append(item)
            if len(members) == self.batch:
                if position >= self.start:
                    yield from members[self.rank :: self.num_processes]
                position += self.batch
                members.clear()


class TrainingSet(Dataset[Batch]):
    """Items of a packed set; with ``mirror``, items n .. 2n-1 are the flipped images.

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

    def classes(self) -> list[int]:
        """The class of each item; empty: there are no labels, or they are not classes."""
        if self.label_dim == 0:
            return []
        labels = [self.label(index) for index in range(self.packed.num_images)]
        if not all(is_one_hot(tuple(label.tolist())) for label in labels):
            return []
        return [int(label.argmax()) for label in labels] * (2 if self.mirror else 1)


class _Stream(IterableDataset[Batch | Sg3flowError]):
    """The batches of a sampler, which the data loading processes take in turn.

    An error while reading an image is yielded, not raised: an exception would reach the training
    process only as the text of a traceback.
    """

    def __init__(self, items: TrainingSet, sampler: Iterable[int], batch: int) -> None:
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
                        _move_to_shared_memory(batch)
                except Sg3flowError as error:
                    yield error
                    return
                yield batch


def training_batches(
    items: TrainingSet,
    seed: int,
    nimg: int,
    batch: int,
    *,
    workers: int,
    pin_memory: bool,
    class_batches: bool = False,
) -> Iterator[Batch]:
    """The batches of this process from ``nimg`` images on, in the training's order.

    Args:
        seed: of the training; it decides the order.
        batch: images per step over all processes.
        class_batches: each batch has images of one class; the labels must be classes.
        workers, pin_memory: as for ``endless_batches``.
    """
    count = distributed.world_size()
    share = {"start": nimg, "rank": distributed.rank(), "num_processes": count}
    sampler: Iterable[int] = WindowedShuffle(len(items), seed, **share)
    if class_batches:
        sampler = ClassBatches(items.classes(), seed, batch, **share)
    return endless_batches(items, sampler, batch // count, workers=workers, pin_memory=pin_memory)


def endless_batches(
    items: TrainingSet, sampler: Iterable[int], batch: int, *, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Yield batches in the sampler's order endlessly; ``workers`` processes read ahead.

    Raises:
        DataError: an image of the next batch cannot be read, or shared memory is exhausted.
    """
    loader = DataLoader(
        _Stream(items, sampler, batch),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        # Its own generator: the loader must not consume the training's random numbers.
        generator=torch.Generator(),
        worker_init_fn=_leave_group,
    )
    # This forks the data loading processes now; later, other threads would be running.
    return _checked(iter(loader))


def _checked(batches: Iterator[Batch | Sg3flowError]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, Sg3flowError):
            raise batch
        yield batch


def _move_to_shared_memory(batch: Batch) -> None:
    """Move a batch to memory that the training process can read.

    The loader would do so too, but in a thread that only prints its errors: the training process
    would then wait forever.
    """
    try:
        for tensor in batch:
            tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"shared memory is too small for the images that are read ahead ({reason}); "
            "allow more shared memory (docker run --shm-size 8g) or pass --workers 0; the same "
            "command then resumes the training"
        ) from None


@contextmanager
def report_killed_workers() -> Iterator[None]:
    """Report a killed data loading process with what to do about it.

    PyTorch reports it by a signal, so its error may be raised at any line of the block.

    Raises:
        DataError: instead of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"a data loading process was killed, often because memory ran out ({reason}); "
            "allow more shared memory (docker run --shm-size 8g) or pass --workers 0; the same "
            "command then resumes the training"
        ) from None


def _leave_group(worker_id: int) -> None:
    """Leave the process group, which Ctrl-C and torchrun signal; the training ends the loading."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
