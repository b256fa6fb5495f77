"""One thread that draws: a network has state, and dragging must not wait for old positions.

Work has a slot, such as the large picture of a page. Work of the same slot that still waits is
dropped when newer arrives, so that the thread always draws what is wanted now.
"""

import itertools
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sg3flow.errors import Sg3flowError
from sg3flow.progress import progress_shown

MAX_WAITING = 512


class SupersededError(Sg3flowError):
    """Newer work of the same slot has arrived; the page does not need this any more."""


class TooBusyError(Sg3flowError):
    """Too much work waits."""


@dataclass
class _Work:
    rank: int
    number: int
    call: Callable[[], Any]
    future: "Future[Any]"


class DrawingThread:
    """Runs calls one after another: lower ranks first, and within a rank the older."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, _Work] = {}
        self._numbers = itertools.count()
        self._is_running = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="drawing", daemon=True)
        self._thread.start()

    def submit(self, slot: Hashable, rank: int, call: Callable[[], Any]) -> "Future[Any]":
        """The future of a call.

        Args:
            slot: the result that it replaces; what waits for the same slot is dropped.
            rank: 0 goes before 1.

        Raises:
            TooBusyError: too much waits, or the thread ends.
        """
        work = _Work(rank, next(self._numbers), call, Future())
        with self._changed:
            if self._is_closed or (len(self._waiting) >= MAX_WAITING and slot not in self._waiting):
                raise TooBusyError("too many pictures are waiting; try again in a moment")
            old = self._waiting.get(slot)
            self._waiting[slot] = work
            self._changed.notify_all()
        if old is not None:
            old.future.set_exception(SupersededError("a newer picture is wanted"))
        return work.future

    def wait_until_idle(self, timeout_sec: float) -> bool:
        """Whether nothing is drawn or waits, at the latest after ``timeout_sec``."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._is_running or self._waiting), timeout_sec
            )

    def close(self) -> None:
        """Drop what waits, and end after the call that runs."""
        with self._changed:
            self._is_closed = True
            dropped, self._waiting = list(self._waiting.values()), {}
            self._changed.notify_all()
        for work in dropped:
            work.future.set_exception(TooBusyError("the explorer ends"))
        self._thread.join()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                with progress_shown(False):
                    result = work.call()
            except BaseException as error:
                work.future.set_exception(error)
            else:
                work.future.set_result(result)
            with self._changed:
                self._is_running = False
                self._changed.notify_all()

    def _next(self) -> _Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if self._is_closed:
                return None
            slot = min(
                self._waiting, key=lambda s: (self._waiting[s].rank, self._waiting[s].number)
            )
            self._is_running = True
            return self._waiting.pop(slot)
