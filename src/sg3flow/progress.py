"""Progress of long work: a bar on a terminal, else a line now and then; and what is waited for.

The only place that prints progress.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from sg3flow.durations import RecentRate, duration_words, rate_words

T = TypeVar("T")

_is_shown = ContextVar("progress_is_shown", default=True)


@contextmanager
def progress_shown(is_shown: bool) -> Iterator[None]:
    """Show progress in the block, or not (``--verbose=0``); other threads are not affected."""
    before = _is_shown.set(is_shown)
    try:
        yield
    finally:
        _is_shown.reset(before)


@contextmanager
def progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show the progress of ``total`` steps of work; the block calls ``advance(steps)``.

    It writes to standard error, so that standard output can be piped.

    Args:
        done: steps of an earlier start, which do not count for the rate.
    """
    if not _is_shown.get():
        yield lambda steps: None
    elif sys.stderr.isatty():
        with _bar(description, total, done) as advance:
            yield advance
    else:
        yield PlainLines(description, total, done).advance


def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Iterate over ``items`` and show progress, one step per item."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance(1)


_NOTICE_SEC = 2.0
_POLL_SEC = 0.2
_announced: set[str] = set()


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """Say on standard error what is waited for, if nothing happens for two seconds.

    The block calls the function that it gets whenever something arrives. It is said once for each
    ``what``: a slow server would be named again at each request.
    """
    ended, last = threading.Event(), [time.monotonic()]

    def arrived() -> None:
        last[0] = time.monotonic()

    def watch() -> None:
        while what not in _announced and not ended.wait(_POLL_SEC):
            if time.monotonic() - last[0] >= _NOTICE_SEC:
                _announced.add(what)
                print(f"waiting for {what}", file=sys.stderr, flush=True)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield arrived
    finally:
        ended.set()


_ELAPSED_SEC = 20.0


@contextmanager
def elapsed_shown(what: str, first_sec: float = _ELAPSED_SEC) -> Iterator[None]:
    """Say on standard error how long the block has been running: ``what, 40 s so far``.

    Args:
        first_sec: when to say it for the first time; then it follows every 20 s.
    """
    ended, start = threading.Event(), time.monotonic()

    def watch() -> None:
        pause = first_sec
        while not ended.wait(pause):
            passed = time.monotonic() - start
            print(f"{what}, {passed:.0f} s so far", file=sys.stderr, flush=True)
            pause = _ELAPSED_SEC

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


_RATE_PERIOD_SEC = 600.0  # of the bar's time left: a step may take minutes


@contextmanager
def _bar(description: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Lines printed during the work appear above the bar, unless they go to a file.
    printed = sys.stdout.isatty()
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, redirect_stdout=printed, speed_estimate_period=_RATE_PERIOD_SEC
    ) as bars:
        task = bars.add_task(description, total=total, completed=done)
        yield lambda steps: bars.update(task, advance=steps)


class PlainLines:
    """Progress without a terminal: ``packing: 1,200/5,153 in 20 s, 60/s, 1 min 6 s left``.

    Lines are 10 seconds apart at first; later they grow rarer, up to one in five minutes.
    """

    _FIRST_SEC, _LAST_SEC, _SHARE = 10.0, 300.0, 1 / 20

    def __init__(
        self,
        description: str,
        total: int,
        done: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self._description, self._total, self._done, self._clock = description, total, done, clock
        self._write = write or _to_stderr
        self._start = self._last_line = clock()
        self._before = done
        self._rate = RecentRate(self._start, done)

    def advance(self, steps: int) -> None:
        """``steps`` more are done: print a line, if one is due or the work is complete."""
        was_complete = self._done >= self._total
        self._done += steps
        now = self._clock()
        self._rate.add(now, self._done)
        is_complete = self._done >= self._total
        period = min(max((now - self._start) * self._SHARE, self._FIRST_SEC), self._LAST_SEC)
        if (is_complete and not was_complete) or now - self._last_line >= period:
            self._last_line = now
            rate, left = self._average(now) if is_complete else self._rate.per_second(), ""
            if rate and not is_complete:
                left = f", {duration_words((self._total - self._done) / rate)} left"
            shown_rate = f", {rate_words(rate)}" if rate else ""
            counts = f"{self._done:,}/{self._total:,} in {duration_words(now - self._start)}"
            self._write(f"{self._description}: {counts}{shown_rate}{left}")

    def _average(self, now: float) -> float:
        """The rate from the start on; 0 for work of less than a second."""
        passed = now - self._start
        return (self._done - self._before) / passed if passed >= 1 else 0.0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
