"""Progress of long work: a bar on a terminal, else a line every 10 seconds.

Short because it is the only place that prints progress, and needs no more.
"""

import sys
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
