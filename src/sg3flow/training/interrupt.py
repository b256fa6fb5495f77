"""Stopping a training from outside without losing a step."""

import contextlib
import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGINT or SIGTERM has come.

    The first signal is remembered, so that the step under way can end and its state be saved; a
    second SIGINT interrupts at once. On Linux, the death of the parent process (DVC) counts as a
    SIGTERM: an orphan would go on training beside the one that the next `dvc repro` starts.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, remember) for number in _SIGNALS}
    _follow_parent(signal.SIGTERM)
    try:
        yield lambda: asked
    finally:
        _follow_parent(0)
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _follow_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
