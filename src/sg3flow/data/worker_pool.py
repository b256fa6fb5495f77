"""A pool of worker processes, and the work on single images that they do.

Not ``multiprocessing.Pool``: results come in order while only a few jobs are in flight, and one
queue for all results took a fifth of the time.
"""

import hashlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from sg3flow.data.image_decoding import (
    Color,
    Decoded,
    UnusableImageError,
    decode_image,
    image_endings,
    to_rgb_or_gray,
)
from sg3flow.data.image_transform import (
    ExcludedImageError,
    Measures,
    fit,
    measure,
    pixel_digest,
    quality,
)
from sg3flow.data.packed_form import encode_png
from sg3flow.data.readers.storage import Storage
from sg3flow.errors import DataError
from sg3flow.interrupts import held_interrupts
from sg3flow.resources import available_cpus

Shared = TypeVar("Shared")
Job = TypeVar("Job")
Result = TypeVar("Result")

_CHUNK_JOBS = 4  # sent in one message: sending one costs a tenth of the work on an image
_CHUNKS_AHEAD = 3  # per worker: enough to keep it busy, few enough to bound the memory
_FEW_JOBS = 32  # finished sooner than processes would start
_PIPE_BYTES = 1 << 20  # the results of a chunk fit: fewer context switches


def workers_for(num_jobs: int, workers: int = 0) -> int:
    """Number of processes: as requested; for 0 one per CPU, or just this one for a few jobs."""
    if workers > 0:
        return workers
    return 1 if num_jobs <= _FEW_JOBS else available_cpus()


def ordered_map(
    function: Callable[[Shared, Job], Result],
    shared: Shared,
    jobs: Iterable[Job],
    workers: int,
) -> Generator[Result, None, None]:
    """Yield ``function(shared, job)`` for every job, in order, computed by worker processes.

    The processes take chunks of jobs in turn, each over its own pipe. Wrap the generator in
    ``contextlib.closing`` if it may not be read to its end: closing it ends the processes.

    Args:
        function: a module-level function, which the processes import.
        shared: sent to every process once.
        jobs: taken a few at a time, so a generator may depend on the results so far.
        workers: number of processes; 1: work in this process.

    Raises:
        DataError: a process was killed.
    """
    if workers == 1:
        yield from (function(shared, job) for job in jobs)
        return
    started = [_start(function, shared) for _ in range(workers)]
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
    """A worker process, and our ends of its two pipes."""

    process: SpawnProcess
    jobs: Connection
    results: Connection

    def send(self, chunk: list[Any]) -> None:
        with suppress(BrokenPipeError):  # ``receive`` reports that the process is gone
            self.jobs.send(chunk)

    def receive(self) -> list[Any]:
        try:
            results = self.results.recv()
        except (EOFError, ConnectionResetError):
            raise DataError(
                "a worker process was killed, often because memory ran out; run again with "
                "--workers 1"
            ) from None
        if isinstance(results, BaseException):
            raise results
        return list(results)

    def end(self) -> None:
        """Close the pipes; the process ends after its current chunk at the latest."""
        self.jobs.close()
        self.results.close()
        self.process.join()


def _start(function: Callable[[Any, Any], Any], shared: Any) -> _Worker:
    # Not fork: the caller may have threads (torch, MLflow), and a forked copy of their locks hangs.
    context = multiprocessing.get_context("spawn")
    job_reader, job_writer = context.Pipe(duplex=False)
    result_reader, result_writer = context.Pipe(duplex=False)
    _widen(result_writer)
    arguments = (function, shared, job_reader, result_writer)
    process = context.Process(target=_work, args=arguments, daemon=True)
    resource_tracker.ensure_running()  # its start lets signals through again
    with held_interrupts():
        process.start()
    job_reader.close()
    result_writer.close()  # otherwise reading would not end when the process dies
    return _Worker(process, job_writer, result_reader)


def _widen(pipe: Connection) -> None:
    with suppress(ImportError, AttributeError, OSError):  # Linux only, and up to its limit
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _work(
    function: Callable[[Any, Any], Any], shared: Any, jobs: Connection, results: Connection
) -> None:
    """Work until the parent closes the pipes or dies; the parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            chunk = jobs.recv()
            try:
                result: Any = [function(shared, job) for job in chunk]
            except Exception as error:
                result = error
            results.send(result)


_MODES = {"rgb": "RGB", "grey": "L"}


@dataclass(frozen=True, slots=True)
class ScanTask:
    """What is common to all images of a source; ``mode`` is keep, rgb or grey."""

    storage: Storage
    transform: str
    size: tuple[int, int] | None
    aspect: str
    min_side: int
    mode: str
    background: Color


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One image, and whether to pack it; otherwise it is only measured."""

    name: str
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image as it goes into the packed set."""

    png: bytes
    width: int
    height: int
    mode: str
    pixel_sha256: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """The result for one image.

    ``problem`` says why it cannot be used (it then has no measures); ``unwanted`` is the kind of
    reason for which the settings leave it out, and ``why`` the reason; otherwise they are "".
    ``changes`` names the rules that converted it to RGB or gray; ``span`` is that of ``Decoded``.
    """

    name: str
    num_bytes: int
    file_sha256: str | None = None
    mode: str | None = None
    measures: Measures | None = None
    changes: tuple[str, ...] = ()
    encoded: Encoded | None = None
    problem: str = ""
    unwanted: str = ""
    why: str = ""
    span: tuple[int, int] | None = None


def scan_image(task: ScanTask, job: ScanJob) -> Scanned:
    """Read and measure one image, and encode it if it is to be packed."""
    try:
        content = task.storage.read(job.name)
    except DataError as error:
        # The manifest must not depend on the location of the source.
        problem = str(error).replace(f"{task.storage.path}/", "")
        problem = problem.replace(f" of {task.storage.path}", "")
        return Scanned(job.name, task.storage.size(job.name), problem=problem)
    num_bytes, digest = len(content), hashlib.sha256(content).hexdigest()
    try:
        decoded = decode_image(content)
        converted = to_rgb_or_gray(decoded.image, task.background)
    except UnusableImageError as error:
        return Scanned(job.name, num_bytes, digest, problem=str(error))
    image = converted.image
    measures = measure(image)
    encoded, unwanted, why = None, "", ""
    if job.is_wanted:
        try:
            _check_wanted(image, task)
            encoded = _encode(_colored(fit(image, task.transform, task.size), task.mode))
        except ExcludedImageError as error:
            unwanted, why = error.kind, str(error)
    changes = (*_misnamed(job.name, decoded), *decoded.changes, *converted.changes)
    read = (num_bytes, digest, decoded.image.mode, measures, changes, encoded)
    return Scanned(job.name, *read, unwanted=unwanted, why=why, span=decoded.span)


def _misnamed(name: str, decoded: Decoded) -> tuple[str, ...]:
    """The rule for a file name suffix of another format; the content decides the format."""
    named = image_endings().get(PurePosixPath(name).suffix.lower())
    found = decoded.image.format
    is_same = named is None or named == found or {named, found} == {"JPEG", "MPO"}
    return () if is_same else ("wrong ending",)


def _check_wanted(image: Image.Image, task: ScanTask) -> None:
    width, height = image.size
    if task.aspect == "square" and width != height:
        raise ExcludedImageError("not square", f"{width}x{height} is not square")
    if min(width, height) < task.min_side:
        raise ExcludedImageError("too small", f"{width}x{height} is below min_side {task.min_side}")


def _colored(image: Image.Image, mode: str) -> Image.Image:
    wanted = _MODES.get(mode, image.mode)
    return image if image.mode == wanted else image.convert(wanted)


def _encode(image: Image.Image) -> Encoded:
    pixels = np.asarray(image)
    digest = pixel_digest(pixels)
    return Encoded(encode_png(pixels), image.width, image.height, image.mode, digest)


def inspect_entry(storage: Storage, name: str) -> dict[str, Any]:
    """Read and measure one entry of a packed set; returns its row of the table of entries."""
    try:
        image = decode_image(storage.read(name)).image
    except (DataError, UnusableImageError) as error:
        return {"entry": name, "problem": str(error)}
    row = {"entry": name, "mode": image.mode, "width": image.width, "height": image.height}
    if image.mode not in ("RGB", "L"):  # a check reports the mode; there is nothing to measure
        return row
    return row | asdict(measure(image)) | asdict(quality(image))
