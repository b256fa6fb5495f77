"""Ordered, memory-bounded work over processes."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from sg3flow.errors import DataError
from sg3flow.limits import available_cpus

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")

_CHUNK_JOBS = 4  # sent together: a message costs the sender a tenth of a picture's work
_CHUNKS_AHEAD = 3  # a worker: enough to keep it busy, few enough to bound the memory
_FEW_JOBS = 32  # done before the processes would have started
_PIPE_BYTES = 1 << 20  # a result of some pictures in one piece: fewer switches between processes


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

    The processes take the jobs in turn, each over a pipe of its own: a pool's one queue for all
    results cost a fifth of the work.

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
    started = [_started(function, shared) for _ in range(workers)]
    pending: deque[_Worker] = deque()
    try:
        remaining = iter(jobs)
        for worker in cycle(started):
            chunk = list(islice(remaining, _CHUNK_JOBS))
            if not chunk:
                break
            worker.send(chunk)
            pending.append(worker)
            if len(pending) > workers * _CHUNKS_AHEAD:
                yield from pending.popleft().receive()
        while pending:
            yield from pending.popleft().receive()
    finally:
        for worker in started:
            worker.end()


@dataclass(frozen=True)
class _Worker:
    """A process that works, and the ends of the pipes to and from it."""

    process: SpawnProcess
    jobs: Connection
    results: Connection

    def send(self, chunk: list[Any]) -> None:
        with suppress(BrokenPipeError):  # ``receive`` says that the process is gone
            self.jobs.send(chunk)

    def receive(self) -> list[Any]:
        try:
            results = self.results.recv()
        except (EOFError, ConnectionResetError):
            raise DataError(
                "a worker process was killed (often by a lack of memory); run again with "
                "--workers 1"
            ) from None
        if isinstance(results, BaseException):
            raise results
        return list(results)

    def end(self) -> None:
        """Close the pipes: the process ends when it comes to them, at the latest after a chunk."""
        self.jobs.close()
        self.results.close()
        self.process.join()


def _started(function: Callable[[Any, Any], Any], shared: Any) -> _Worker:
    # Not fork: the caller may have threads (torch, MLflow), and a forked copy of their locks hangs.
    context = multiprocessing.get_context("spawn")
    job_reader, job_writer = context.Pipe(duplex=False)
    result_reader, result_writer = context.Pipe(duplex=False)
    _widen(result_writer)
    arguments = (function, shared, job_reader, result_writer)
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    job_reader.close()
    result_writer.close()  # else its end would not be seen when the process is gone
    return _Worker(process, job_writer, result_reader)


def _widen(pipe: Connection) -> None:
    with suppress(ImportError, AttributeError, OSError):  # Linux alone, and as far as it allows
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _work(
    function: Callable[[Any, Any], Any], shared: Any, jobs: Connection, results: Connection
) -> None:
    """Work until the parent closes the pipes, or ends; Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            chunk = jobs.recv()
            try:
                answer: Any = [function(shared, job) for job in chunk]
            except Exception as error:
                answer = error
            results.send(answer)
