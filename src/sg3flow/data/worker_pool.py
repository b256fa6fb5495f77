"""Ordered, memory-bounded work over processes."""

import hashlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
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
    decode_picture,
    picture_endings,
    plain_picture,
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
from sg3flow.resources import available_cpus

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


_MODES = {"rgb": "RGB", "grey": "L"}


@dataclass(frozen=True, slots=True)
class ScanTask:
    """What is the same for all pictures of a source; ``mode`` is keep, rgb or gray."""

    storage: Storage
    transform: str
    size: tuple[int, int] | None
    aspect: str
    min_side: int
    mode: str
    background: Color


@dataclass(frozen=True, slots=True)
class ScanJob:
    """One picture, and whether it is to be packed (else it is only measured)."""

    name: str
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture in the form in which it is packed."""

    png: bytes
    width: int
    height: int
    mode: str
    pixel_sha256: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """What became of one picture.

    ``problem`` says why it cannot be used (then there are no measures); ``unwanted`` is the kind of
    reason for which the settings leave it out, and ``why`` the reason; all are "" otherwise.
    ``changes`` names the rules by which it became plain.
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


def scan_picture(task: ScanTask, job: ScanJob) -> Scanned:
    """Read and measure one picture, and bring it into packed form if it is wanted."""
    try:
        content = task.storage.read(job.name)
    except DataError as error:
        # The manifest must not depend on where the source stands.
        problem = str(error).replace(f"{task.storage.path}/", "")
        problem = problem.replace(f" of {task.storage.path}", "")
        return Scanned(job.name, task.storage.size(job.name), problem=problem)
    num_bytes, digest = len(content), hashlib.sha256(content).hexdigest()
    try:
        decoded = decode_picture(content)
        plain = plain_picture(decoded.picture, task.background)
    except UnusableImageError as error:
        return Scanned(job.name, num_bytes, digest, problem=str(error))
    picture = plain.picture
    measures = measure(picture)
    encoded, unwanted, why = None, "", ""
    if job.is_wanted:
        try:
            _check_wanted(picture, task)
            encoded = _encode(_colored(fit(picture, task.transform, task.size), task.mode))
        except ExcludedImageError as error:
            unwanted, why = error.kind, str(error)
    changes = (*_misnamed(job.name, decoded), *decoded.changes, *plain.changes)
    mode = decoded.picture.mode
    return Scanned(job.name, num_bytes, digest, mode, measures, changes, encoded, "", unwanted, why)


def _misnamed(name: str, decoded: Decoded) -> tuple[str, ...]:
    """Whether a file's ending is that of another format; what counts is the content."""
    said = picture_endings().get(PurePosixPath(name).suffix.lower())
    found = decoded.picture.format
    is_same = said is None or said == found or {said, found} == {"JPEG", "MPO"}
    return () if is_same else ("wrong ending",)


def _check_wanted(picture: Image.Image, task: ScanTask) -> None:
    width, height = picture.size
    if task.aspect == "square" and width != height:
        raise ExcludedImageError("not square", f"{width}x{height} is not square")
    if min(width, height) < task.min_side:
        raise ExcludedImageError("too small", f"{width}x{height} is below min_side {task.min_side}")


def _colored(picture: Image.Image, mode: str) -> Image.Image:
    wanted = _MODES.get(mode, picture.mode)
    return picture if picture.mode == wanted else picture.convert(wanted)


def _encode(picture: Image.Image) -> Encoded:
    pixels = np.asarray(picture)
    digest = pixel_digest(pixels)
    return Encoded(encode_png(pixels), picture.width, picture.height, picture.mode, digest)


def inspect_entry(storage: Storage, name: str) -> dict[str, Any]:
    """Read and measure one entry of a packed set: its row in the table of entries."""
    try:
        picture = decode_picture(storage.read(name)).picture
    except (DataError, UnusableImageError) as error:
        return {"entry": name, "problem": str(error)}
    row = {"entry": name, "mode": picture.mode, "width": picture.width, "height": picture.height}
    if picture.mode not in ("RGB", "L"):  # then only its name counts: a check says it is wrong
        return row
    return row | asdict(measure(picture)) | asdict(quality(picture))
