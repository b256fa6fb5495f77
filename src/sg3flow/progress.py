"""Progress of long work: a bar on a terminal, else a line every 10 seconds; and what is waited for.

Short because it is the only place that prints progress, and needs no more.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_PLAIN_LINE_SEC = 10.0
_is_shown = True


@contextmanager
def progress_shown(is_shown: bool) -> Iterator[None]:
    """Show progress in the block, or not (``--verbose=0``)."""
    global _is_shown
    before, _is_shown = _is_shown, is_shown
    try:
        yield
    finally:
        _is_shown = before


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of ``total`` steps of work; the block calls ``advance(steps)``.

    It writes to standard error, so that standard output can be piped.
    """
    if not _is_shown:
        yield lambda steps: None
    elif sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _plain_lines(description, total)


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


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
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
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=printed) as bars:
        task = bars.add_task(description, total=total)
        yield lambda steps: bars.update(task, advance=steps)


def _plain_lines(description: str, total: int) -> Callable[[int], None]:
    start = last_line = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done, last_line
        done += steps
        now = time.monotonic()
        if done >= total or now - last_line >= _PLAIN_LINE_SEC:
            last_line = now
            print(f"{description}: {done}/{total} in {now - start:.0f} s", file=sys.stderr)

    return advance
