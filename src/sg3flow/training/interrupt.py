"""Stopping a training from outside without losing a step."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from sg3flow import processes

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether SIGINT, SIGTERM or SIGHUP has come.

    The first signal is remembered, so that the step under way can end and its state be saved; a
    second SIGINT interrupts at once. An orphan would go on training beside the one that the next
    `dvc repro` starts: see ``stop_with_parent``.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        # The launcher of several processes passes on what the terminal has sent them already.
        if not processes.is_launched():
            signal.signal(signal.SIGINT, signal.default_int_handler)

    # One that is ignored stays so: `nohup` means it.
    heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heeded}
    try:
        with stop_with_parent():
            yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_with_parent() -> Iterator[None]:
    """Take the death of DVC, or of the launcher of several processes, as a SIGTERM (on Linux)."""
    follows = "DVC_STAGE" in os.environ or processes.is_launched()
    if follows:
        _follow_parent(signal.SIGTERM)
    try:
        yield
    finally:
        if follows:
            _follow_parent(0)


def _follow_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
