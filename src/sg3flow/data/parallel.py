"""Ordered, memory-bounded work over processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from sg3flow.errors import DataError

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")

_CHUNK_JOBS = 4  # sent together: a message costs the sender a tenth of a picture's work
_CHUNKS_AHEAD = 3  # a worker: enough to keep it busy, few enough to bound the memory
_FEW_JOBS = 32  # done before the processes would have started

_work: Callable[[Any], Any]  # what a worker process does with a job; set when it starts


def available_cpus() -> int:
    """CPUs this process may use; containers and batch systems give fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_for(num_jobs: int, workers: int = 0) -> int:
    """How many processes to use: those asked for; 0: one a CPU, or none for a few jobs."""
    if workers > 0:
        return workers
    return 1 if num_jobs <= _FEW_JOBS else available_cpus()


def ordered_map(
    function: Callable[[Shared, Job], Result],
    shared: Shared,
    jobs: Iterable[Job],
    workers: int,
) -> Generator[Result, None, None]:
    """``function(shared, job)`` over processes, in the order of ``jobs`` and a few jobs ahead.

    Args:
        function: a function of a module, which the processes import.
        shared: sent to every process once.
        jobs: taken one by one, so a generator may look at the results that have come back so far.
        workers: number of processes; 1: everything happens in this one.

    To be closed (``contextlib.closing``) where it may not be read to its end: that ends the
    processes.

    Raises:
        DataError: a process was killed from outside.
    """
    if workers == 1:
        yield from (function(shared, job) for job in jobs)
        return
    # Not fork: the caller may have threads (torch, MLflow), and a forked copy of their locks hangs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (function, shared))
    pending: deque[Future[list[Result]]] = deque()
    try:
        remaining = iter(jobs)
        while chunk := list(islice(remaining, _CHUNK_JOBS)):
            pending.append(pool.submit(_do, chunk))
            if len(pending) > workers * _CHUNKS_AHEAD:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed (often by a lack of memory); run again with --workers 1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(function: Callable[[Any, Any], Any], shared: Any) -> None:
    """Leave Ctrl-C to the parent, and end with it even if it is killed outright."""
    global _work
    _work = partial(function, shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _do(jobs: list[Any]) -> list[Any]:
    return [_work(job) for job in jobs]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
