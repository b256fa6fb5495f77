"""Work of seconds to minutes, videos and projections: one at a time, beside the pictures.

Jobs have a copy of the network with its own state and shared weights. They wait at each image while
the page draws, so that dragging stays smooth.
"""

import copy
import itertools
import logging
import queue
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sg3flow.errors import ConfigError, Sg3flowError, cut
from sg3flow.explorer.drawing_thread import DrawingThread, TooBusyError
from sg3flow.progress import progress_shown
from sg3flow.rendering.images import Model, RenderedGenerator

_log = logging.getLogger(__name__)
_KEPT = 12  # jobs whose results can be fetched
_MAX_WAITING = 4
_YIELD_SEC = 2.0  # a job goes on after this, even if pictures are drawn without a pause
_TYPES = {
    "png": "image/png",
    "mp4": "video/mp4",
    "json": "application/json",
    "npz": "application/octet-stream",
}
PREVIEW = "preview.png"
WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"


class StoppedError(Sg3flowError):
    """A job was stopped."""


@dataclass
class Job:
    """A job and how far it is; the page polls ``facts``.

    Attributes:
        total: images to draw; progress is counted in images.
        folder: for its files; removed with the job.
        shown: what the page shows of it.
        preview: a PNG, the state of a projection.
    """

    name: str
    kind: str
    total: int
    folder: Path
    state: str = WAITING
    done: int = 0
    message: str = ""
    shown: dict[str, Any] = field(default_factory=dict)
    preview: bytes = b""
    is_stopping: bool = False

    def file(self, name: str) -> tuple[bytes, str]:
        """Content and content type of one of its files.

        Raises:
            ConfigError: it has no such file.
        """
        kind = _TYPES.get(name.rpartition(".")[2])
        path = self.folder / name
        if name == PREVIEW and self.preview:
            return self.preview, "image/png"
        if kind is None or "/" in name or not path.is_file():
            raise ConfigError(f"the job has no file '{cut(name)}'")
        return path.read_bytes(), kind

    def show(self, **values: Any) -> None:
        """Add to what the page shows."""
        self.shown = {**self.shown, **values}  # a new one: another thread may be reading

    def facts(self) -> dict[str, Any]:
        """Its state as JSON."""
        known = {"job": self.name, "kind": self.kind, "state": self.state, "message": self.message}
        return known | {"done": self.done, "total": self.total} | self.shown


Work = Callable[[Job, Model], None]


class JobRunner:
    """The thread of the jobs.

    Args:
        model: the network, which ``drawing`` uses.
        drawing: goes before jobs.
    """

    def __init__(self, model: Model, drawing: DrawingThread) -> None:
        self.model = replace(model, G=_twin(model.G))
        self._drawing = drawing
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: queue.SimpleQueue[tuple[Job, Work] | None]
        self._queue = queue.SimpleQueue()
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        # A page that is still open must not take the job of a later explorer for its own.
        self._token = secrets.token_hex(4)
        self._running: Job | None = None
        synthesis: Any = self.model.G.synthesis
        synthesis.register_forward_pre_hook(lambda *_: self._pause())
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def start(
        self, kind: str, total: int, work: Work, shown: Mapping[str, Any] | None = None
    ) -> Job:
        """A new job; it runs when those before it have ended.

        Args:
            total: images that it draws.
            shown: what the page shows of it.

        Raises:
            TooBusyError: too many wait.
        """
        with self._lock:
            waiting = len(self._open())
            if waiting >= _MAX_WAITING:
                raise TooBusyError(
                    f"{waiting} films and projections are waiting; stop one, or wait"
                )
            name = f"{next(self._numbers)}-{self._token}"
            folder = Path(tempfile.mkdtemp(prefix="sg3flow-explorer-"))
            job = Job(name, kind, total, folder, shown=dict(shown or {}))
            self._jobs[name] = job
            self._forget_old()
        self._queue.put((job, work))
        return job

    def find(self, name: str) -> Job:
        """A job by its name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self._jobs:
            raise ConfigError(f"there is no job '{cut(name)}' any more; start it again")
        return self._jobs[name]

    def stop(self, name: str) -> Job:
        """Let a job end at its next image."""
        job = self.find(name)
        job.is_stopping = True
        if job.state == WAITING:
            job.state = STOPPED
        return job

    @property
    def is_idle(self) -> bool:
        """Whether no job runs or waits."""
        with self._lock:
            return not self._open()

    def close(self) -> None:
        """Stop all jobs and remove their files."""
        for job in self._jobs.values():
            job.is_stopping = True
        self._queue.put(None)
        self._thread.join()
        for job in self._jobs.values():
            shutil.rmtree(job.folder, ignore_errors=True)

    def _open(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.state in (WAITING, RUNNING)]

    def _forget_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.state not in (WAITING, RUNNING)]
        for job in ended[: max(0, len(self._jobs) - _KEPT)]:
            del self._jobs[job.name]
            shutil.rmtree(job.folder, ignore_errors=True)

    def _run(self) -> None:
        with progress_shown(False):  # the page shows it
            while (item := self._queue.get()) is not None:
                job, work = item
                if not job.is_stopping:
                    self._running, job.state = job, RUNNING
                    job.state = self._ended(job, work)
                    self._running = None

    def _ended(self, job: Job, work: Work) -> str:
        try:
            work(job, self.model)
        except StoppedError:
            return STOPPED
        except Sg3flowError as error:
            job.message = str(error)
        except Exception:
            _log.exception("a %s failed", job.kind)
            job.message = f"the {job.kind} failed; the log of the explorer has the details"
        else:
            return DONE
        return FAILED

    def _pause(self) -> None:
        """Before each image of a job: let pictures go first, count, and stop if asked."""
        job = self._running
        self._drawing.wait_until_idle(_YIELD_SEC)
        if job is None:
            return
        if job.is_stopping:
            raise StoppedError("stopped")
        job.done = min(job.done + 1, job.total)


def _twin(G: RenderedGenerator) -> RenderedGenerator:
    """A copy of the network with its own state and shared weights."""
    weights = {id(parameter): parameter for parameter in G.parameters()}
    return copy.deepcopy(G, weights)
