"""`sg3flow serve`: one address that always serves the version an alias stands at.

A watcher asks the registry where the alias stands. When it has moved, the new version is loaded and
warmed in a process of its own beside the old one; then new requests go to it, and the old process
ends when it has answered what it had, and its copy of the files is removed. A version that does not
come up leaves the old one serving. A process that dies or hangs is replaced.

A request is never lost by that: it goes to one version as a whole. Where the process that had it
dies, it is asked again of the one that takes its place, which is safe, for the same request gives
the same bytes. The header ``X-Sg3flow-Version`` names the version that made an answer; what the
gateway answers itself (too many requests, too long a body, no version there) has none.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sg3flow.errors import CheckpointError, Sg3flowError
from sg3flow.serving.http_body import HTTPError, check_content_type, read_body
from sg3flow.serving.model_worker import Worker

_logger = logging.getLogger("sg3flow.serve")
_PASSED_ON = ("content-type",)
_DEATH_SEC = 2.0
_VERSION_HEADER = "X-Sg3flow-Version"


@dataclass(frozen=True)
class Source:
    """Where versions come from; both calls may block and raise Sg3flowError.

    Attributes:
        name: what is served, for people.
        wanted: the version that should be served now.
        fetch: a new folder with that version's files, for the caller to remove.
    """

    name: str
    wanted: Callable[[], str]
    fetch: Callable[[str], Path]


@dataclass(frozen=True)
class Settings:
    """How the gateway behaves.

    Attributes:
        poll_sec: seconds between two looks at the registry.
        load_sec: how long a version may take to load and make a first picture.
        max_waiting: requests at once; more are answered by 503.
        max_body_bytes: longest body.
        patience_sec: how long a request waits for a version to be there.
        ping_sec: how long a version may take to say that it lives; three times late, it hangs.
    """

    poll_sec: float = 5.0
    load_sec: float = 300.0
    max_waiting: int = 256
    max_body_bytes: int = 16 << 20
    patience_sec: float = 60.0
    ping_sec: float = 10.0


class Gateway:
    """The present worker, the watcher that replaces it, and the requests."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source, self.settings = source, settings
        self._worker: Worker  # this and its guard are there from ``running`` on
        self._guard: asyncio.Task[None]
        self._failed: str | None = None
        self._waiting = 0
        self._retiring: set[asyncio.Task[None]] = set()
        self._warned: set[str] = set()
        self._wake = asyncio.Event()

    def application(self) -> Starlette:
        """The ASGI application: /invocations, /ping, /health and /model."""
        return Starlette(
            routes=[
                Route("/invocations", self._invocations, methods=["POST"]),
                Route("/ping", self._ping),
                Route("/health", self._ping),
                Route("/model", self._model),
            ],
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have a version loaded, and follow the alias while the block runs.

        Raises:
            Sg3flowError: the registry is away, or the first version does not come up.
        """
        version = await asyncio.to_thread(self.source.wanted)
        self._take_over(await self._fetched(version))
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            for task in (watcher, self._guard):
                task.cancel()
            await asyncio.gather(watcher, self._guard, *self._retiring, return_exceptions=True)
            await self._worker.stop()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.settings.poll_sec)
            self._wake.clear()
            try:
                await self.follow()
            except Sg3flowError as error:
                self._warn(f"{error}; version {self._worker.version} goes on serving")
                await asyncio.sleep(self.settings.poll_sec)
            except Exception:  # the watcher must outlive whatever it stumbles over
                _logger.exception("%s: looking for a new version failed", self.source.name)
                await asyncio.sleep(self.settings.poll_sec)

    async def follow(self) -> None:
        """Serve what should be served now, if it is another version or its process has died.

        A version that did not come up is not tried again before the alias has moved.

        Raises:
            Sg3flowError: the registry is away, or the version does not come up.
        """
        old = self._worker
        wanted = await self._wanted_version(old)
        if wanted != self._failed:
            self._failed = None
        if old.is_alive and wanted in (old.version, self._failed):
            return
        if wanted == self._failed:
            wanted = old.version
        try:
            same = wanted == old.version
            worker = await (self._restarted(old) if same else self._fetched(wanted))
        except CheckpointError:
            self._failed = wanted
            raise
        self._take_over(worker)
        task = asyncio.create_task(self._retired(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _take_over(self, worker: Worker) -> None:
        """Let a worker answer from now on."""
        self._worker, self._warned = worker, set()
        _logger.info("%s: serving version %s", self.source.name, worker.version)
        self._guard = asyncio.create_task(self._guarded(worker))

    async def _guarded(self, worker: Worker) -> None:
        """End a worker that hangs, and tell how one ended, while it is the present one."""
        name = f"{self.source.name}: version {worker.version}"
        while not await worker.ended(self.settings.poll_sec):
            if worker is not self._worker:
                return
            if await worker.hangs(self.settings.ping_sec):
                _logger.warning("%s does not answer any more; its process is killed", name)
                worker.kill()
        if worker is self._worker:
            _logger.warning("%s: its process ended; its last words: %s", name, worker.last_words())
            self._wake.set()

    async def _retired(self, old: Worker) -> None:
        """See a worker that was replaced to its end; its files go, unless they still serve."""
        await old.retire(self.settings.patience_sec)
        if self._worker.model != old.model:
            await asyncio.to_thread(shutil.rmtree, old.model, ignore_errors=True)

    async def _wanted_version(self, old: Worker) -> str:
        try:
            return await asyncio.to_thread(self.source.wanted)
        except Sg3flowError as error:
            if old.is_alive:
                raise
            # The one that died must come back, registry or not: its files are here.
            self._warn(f"{error}; version {old.version} is started again")
            return old.version

    async def _restarted(self, old: Worker) -> Worker:
        """The version of a worker that died, from its files here; from new ones if they do not do.

        What keeps it from coming up may pass, and the registry be away: its files stay till then.
        """
        try:
            return await self._started(old.version, old.model)
        except CheckpointError as error:
            self._warn(f"{error}; its files are fetched again")
            return await self._fetched(old.version)

    async def _fetched(self, version: str) -> Worker:
        folder = await asyncio.to_thread(self.source.fetch, version)
        try:
            return await self._started(version, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    async def _started(self, version: str, folder: Path) -> Worker:
        try:
            return await Worker.start(version, folder, self.settings.load_sec)
        except CheckpointError as error:
            sentence = f"{self.source.name}: version {version} cannot be served: {error}"
            raise CheckpointError(sentence) from None

    async def _invocations(self, request: Request) -> Response:
        if self._waiting >= self.settings.max_waiting:
            return _refusal(503, "too many requests are waiting; try again in a moment")
        self._waiting += 1
        try:
            check_content_type(request.headers.get("content-type"))
            declared = request.headers.get("content-length")
            body = await read_body(request.stream(), declared, self.settings.max_body_bytes)
            headers = {name: request.headers[name] for name in _PASSED_ON}
            return await self._answered(body, headers)
        except HTTPError as error:
            return _refusal(error.status, str(error))
        except ClientDisconnect:  # nobody is there to read the answer
            return _refusal(400, "the request ended early")
        finally:
            self._waiting -= 1

    async def _answered(self, body: bytes, headers: dict[str, str]) -> Response:
        """Ask the present worker; if it dies over the request, its successor, once."""
        for _ in range(2):
            worker = await self._living_worker()
            if worker is None:
                return _refusal(503, "the model is not there at the moment; try again")
            try:
                status, content, kind = await worker.post(body, headers)
            except aiohttp.ClientError as error:
                # The connection is lost before the system has told that the process is.
                ended = "died" if await worker.ended(_DEATH_SEC) else f"lost a request ({error})"
                message = "%s: version %s %s; the request is asked again"
                _logger.warning(message, self.source.name, worker.version, ended)
                continue
            answer = Response(content, status, media_type=kind)
            if status == 504:  # the one answer of MLflow's that our checks do not word
                answer = _refusal(504, "the request took too long; ask for fewer pictures at once")
            answer.headers[_VERSION_HEADER] = worker.version
            return answer
        return _refusal(503, "the model failed at this request twice")

    async def _living_worker(self) -> Worker | None:
        """The present worker; one that died is waited for to be replaced."""
        for _ in range(int(self.settings.patience_sec / 0.05)):
            if self._worker.is_alive:
                return self._worker
            await asyncio.sleep(0.05)
        return None

    async def _ping(self, request: Request) -> Response:
        return Response("\n", 200 if self._worker.is_alive else 503, media_type="application/json")

    async def _model(self, request: Request) -> Response:
        content = {
            "model": self.source.name,
            "version": self._worker.version,
            "failed": self._failed,
            "waiting": self._waiting,
        }
        return JSONResponse(content)

    def _warn(self, message: str) -> None:
        if message not in self._warned:  # a server away for a night needs one line, not 5,000
            _logger.warning(message)
            self._warned.add(message)


def _refusal(status: int, sentence: str) -> JSONResponse:
    codes = {503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(
        {"error_code": codes.get(status, "BAD_REQUEST"), "message": sentence}, status, headers
    )
