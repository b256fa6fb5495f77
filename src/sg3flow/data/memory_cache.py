"""The decoded pictures of a set in memory that all reading processes share.

A picture is decoded by the first process that asks for it and copied by all others. Nothing is
locked: two processes that fill the same place at once write the same bytes.
"""

import mmap
import threading
from collections.abc import Callable

import numpy as np


class MemoryCache:
    """Room for ``count`` pictures of one shape (uint8), shared with processes forked later."""

    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self._shape, self._picture_bytes = shape, int(np.prod(shape))
        self._flags = np.frombuffer(mmap.mmap(-1, count), np.uint8)
        self._pixels = np.frombuffer(mmap.mmap(-1, count * self._picture_bytes), np.uint8)
        self._fence = threading.Lock()

    def get(self, index: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A copy of a picture, from memory or from ``decode``."""
        start = index * self._picture_bytes
        place = self._pixels[start : start + self._picture_bytes]
        if self._flags[index]:
            self._order()
            return place.reshape(self._shape).copy()
        pixels = decode()
        place[:] = pixels.ravel()
        self._order()
        self._flags[index] = 1
        return pixels

    def _order(self) -> None:
        """Keep the flag and the pixels in order on processors that reorder memory accesses.

        The lock is this process's own and never waited for; taking it is the barrier.
        """
        with self._fence:
            pass
