"""The order in which training sees the pictures."""

from collections.abc import Iterator

import numpy as np

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
