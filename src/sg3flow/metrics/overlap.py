"""Features of one batch while the next is drawn."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

R = TypeVar("R")

_AHEAD = 2  # batches that wait for their features


def meanwhile(
    batches: Iterator[torch.Tensor],
    work: Callable[[torch.Tensor], R],
    device: torch.device,
    threaded: bool | None = None,
) -> Iterator[R]:
    """``work`` of each batch, in order, done while the next batches are made.

    On a CUDA device a thread with a stream of its own works beside the one that draws. A CPU is
    busy with either, so there it is done in turn.

    Args:
        threaded: whether to use the thread; None: as the device wants it.
    """
    if not (device.type == "cuda" if threaded is None else threaded):
        yield from map(work, batches)
        return
    side = _new_stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:
        pending: deque[Future[R]] = deque()
        for batch in batches:
            ready = torch.cuda.current_stream(device).record_event() if side else None
            pending.append(pool.submit(_work_aside, work, batch, side, ready))
            if len(pending) > _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _work_aside(
    work: Callable[[torch.Tensor], R],
    batch: torch.Tensor,
    side: torch.cuda.Stream | None,
    ready: torch.cuda.Event | None,
) -> R:
    if side is None or ready is None:
        return work(batch)
    with torch.cuda.stream(side):
        side.wait_event(ready)
        if batch.is_cuda:
            batch.record_stream(side)  # else its memory is drawn over while it is still read
        return work(batch)


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
