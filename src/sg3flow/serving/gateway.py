"""`sg3flow serve`: a gateway that always serves the version an alias points to.

A watcher polls the registry. When the alias changes, the new version is loaded and warmed up in a
separate process beside the old one. Then new requests go to the new process; the old one finishes
its requests and ends, and its copy of the files is removed. If a version fails to load, the old one
continues to serve. A process that dies or hangs is replaced; one that is killed while it loads, as
by the system when memory runs out, is started again later.

No request is lost: each goes to one version as a whole. If its process dies, the request is
repeated on the replacement, which is safe because equal requests give equal bytes. The header
``X-Sg3flow-Version`` names the version of a response; responses of the gateway itself (too many
requests or rows, body too long or late, no version available) have none.

An ordinary proxy cannot do this: it does not read the registry or know when a version is warm.
"""

import asyncio
import contextlib
import logging
import math
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from sg3flow.errors import CheckpointError, Sg3flowError
from sg3flow.serving.http_body import (
    JSON_TYPE,
    ArrivingBodies,
    HTTPError,
    check_content_type,
    check_rows,
)
from sg3flow.serving.model_worker import Worker, WorkerKilledError

_logger = logging.getLogger("sg3flow.serve")
_DEATH_SEC = 2.0
_MAX_RETRY_SEC = 300.0
_FIRST_TRIES = 3
_VERSION_HEADER = "X-Sg3flow-Version"


@dataclass(frozen=True)
class Source:
    """A source of versions; both functions may block and raise Sg3flowError.

    Attributes:
        name: name of the model and alias, for messages.
        wanted: returns the version to serve now.
        fetch: returns a new folder with the files of a version; the caller removes it.
    """

    name: str
    wanted: Callable[[], str]
    fetch: Callable[[str], Path]


@dataclass(frozen=True)
class Settings:
    """Settings of the gateway.

    Attributes:
        poll_sec: seconds between checks of the registry.
        load_sec: maximum time for a version to load and generate a first image.
        max_waiting: maximum concurrent requests; more get status 503.
        max_body_bytes: maximum length of a body.
        wait_sec: maximum time a request waits for a version to be available.
        ping_sec: maximum time to answer a ping; after three late answers a version counts as hung.
        body_sec: maximum time for the head and for the body of a request to arrive.
        max_rows: maximum number of rows of a request.
    """

    poll_sec: float = 5.0
    load_sec: float = 300.0
    max_waiting: int = 256
    max_body_bytes: int = 16 << 20
    wait_sec: float = 60.0
    ping_sec: float = 10.0
    body_sec: float = 30.0
    max_rows: int = 64


@dataclass(frozen=True)
class _Failure:
    """A version that did not start: it is not tried before ``retry_at``."""

    version: str
    retry_at: float = math.inf  # of time.monotonic(); infinite: until the alias changes
    tries: int = 1


class Gateway:
    """The current worker, the watcher that replaces it, and the request handlers."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source, self.settings = source, settings
        self._worker: Worker  # set by ``running``, like its guard
        self._guard: asyncio.Task[None]
        self._failure: _Failure | None = None
        self._arriving = ArrivingBodies(settings.max_body_bytes)
        self._waiting = 0
        self._retiring: set[asyncio.Task[None]] = set()
        self._warned: set[str] = set()
        self._wake = asyncio.Event()

    def application(self, page: ASGIApp | None = None) -> Starlette:
        """The ASGI application: /invocations, /ping, /health and /model.

        Args:
            page: what answers all other addresses; None: nothing.
        """
        routes: list[BaseRoute] = [
            Route("/invocations", self._invocations, methods=["POST"]),
            Route("/ping", self._ping),
            Route("/health", self._ping),
            Route("/model", self._model),
        ]
        return Starlette(routes=[*routes, Mount("/", page)] if page is not None else routes)

    @property
    def served(self) -> tuple[str, Path]:
        """The version that is served now, and the folder of its files."""
        return self._worker.version, self._worker.model

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the first version, and follow the alias inside the block.

        Raises:
            Sg3flowError: the registry does not answer, or the first version fails to load.
        """
        version = await asyncio.to_thread(self.source.wanted)
        self._take_over(await self._first_worker(version))
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            for task in (watcher, self._guard):
                task.cancel()
            await asyncio.gather(watcher, self._guard, *self._retiring, return_exceptions=True)
            await self._worker.stop()

    async def _first_worker(self, version: str) -> Worker:
        for _ in range(_FIRST_TRIES - 1):
            try:
                return await self._fetched(version)
            except WorkerKilledError as error:
                _logger.warning("%s; it is started again", error)
                await asyncio.sleep(self.settings.poll_sec)
        return await self._fetched(version)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.settings.poll_sec)
            self._wake.clear()
            try:
                await self.follow()
            except Sg3flowError as error:
                self._warn(f"{error}; version {self._worker.version} continues to serve")
                await asyncio.sleep(self.settings.poll_sec)
            except Exception:  # the watcher must survive any error
                _logger.exception("%s: checking for a new version failed", self.source.name)
                await asyncio.sleep(self.settings.poll_sec)

    async def follow(self) -> None:
        """Replace the worker if another version is wanted or its process has died.

        A version that failed to load is not tried again until the alias changes; one whose process
        was killed is tried again after a while.

        Raises:
            Sg3flowError: the registry does not answer, or the version fails to load.
        """
        old = self._worker
        wanted = await self._wanted_version(old)
        if self._failure is not None and self._failure.version != wanted:
            self._failure = None
        is_failed = self._failure is not None and time.monotonic() < self._failure.retry_at
        if old.is_alive and (is_failed or wanted == old.version):
            return
        if is_failed:
            wanted = old.version
        try:
            same = wanted == old.version
            worker = await (self._restarted(old) if same else self._fetched(wanted))
        except CheckpointError as error:
            self._failure = self._failure_of(wanted, error)
            raise
        self._failure = None
        self._take_over(worker)
        task = asyncio.create_task(self._retired(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _failure_of(self, version: str, error: CheckpointError) -> _Failure:
        """When to try a version again: if its process was killed, each time after twice as long."""
        if not isinstance(error, WorkerKilledError):
            return _Failure(version)
        known = self._failure
        tries = known.tries + 1 if known is not None and known.version == version else 1
        delay = min(self.settings.poll_sec * 2.0 ** min(tries, 20), _MAX_RETRY_SEC)
        return _Failure(version, time.monotonic() + delay, tries)

    def _take_over(self, worker: Worker) -> None:
        """Send new requests to a worker from now on."""
        self._worker, self._warned = worker, set()
        _logger.info("%s: serving version %s", self.source.name, worker.version)
        self._guard = asyncio.create_task(self._guarded(worker))

    async def _guarded(self, worker: Worker) -> None:
        """Kill the current worker if it hangs; log why it ended."""
        name = f"{self.source.name}: version {worker.version}"
        while not await worker.ended(self.settings.poll_sec):
            if worker is not self._worker:
                return
            if await worker.hangs(self.settings.ping_sec):
                _logger.warning("%s does not respond; its process is killed", name)
                worker.kill()
        if worker is self._worker:
            _logger.warning(
                "%s: its process ended; its last output: %s", name, worker.last_output()
            )
            self._wake.set()

    async def _retired(self, old: Worker) -> None:
        """Stop a worker that was replaced; remove its files unless the new worker uses them."""
        await old.retire(self.settings.wait_sec)
        if self._worker.model != old.model:
            await asyncio.to_thread(shutil.rmtree, old.model, ignore_errors=True)

    async def _wanted_version(self, old: Worker) -> str:
        try:
            return await asyncio.to_thread(self.source.wanted)
        except Sg3flowError as error:
            if old.is_alive:
                raise
            # The dead worker can be restarted without the registry: its files are local.
            self._warn(f"{error}; version {old.version} is restarted")
            return old.version

    async def _restarted(self, old: Worker) -> Worker:
        """Restart the version of a dead worker from its local files, or from a new copy.

        The cause of the failure may be temporary and the registry unreachable, so the local files
        are kept until the restart succeeds.
        """
        try:
            return await self._started(old.version, old.model)
        except WorkerKilledError:  # not the fault of the files
            raise
        except CheckpointError as error:
            self._warn(f"{error}; its files are downloaded again")
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
            raise type(error)(sentence) from None

    async def _invocations(self, request: Request) -> Response:
        try:
            check_content_type(request.headers.get("content-type"))
            declared = request.headers.get("content-length")
            settings = self.settings
            body = await self._arriving.read(request.stream(), declared, settings.body_sec)
            # Only now: a request that stops halfway must not keep others out.
            if self._waiting >= settings.max_waiting:
                raise HTTPError(503, "too many requests are waiting; try again in a moment")
            with self._counted():
                # Here, not only in the worker: it may take seconds to parse a million rows.
                await asyncio.to_thread(check_rows, body, settings.max_rows)
                return await self._answered(body)
        except HTTPError as error:
            return _error_response(error.status, str(error))
        except ClientDisconnect:  # nobody is there to read the answer
            return _error_response(400, "the request ended early")

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _answered(self, body: bytes) -> Response:
        """Send a request to the current worker; if it dies, once more to its replacement."""
        headers = {"content-type": JSON_TYPE}  # in MLflow's spelling, whatever the client's
        for _ in range(2):
            worker = await self._living_worker()
            if worker is None:
                return _error_response(503, "the model is not available at the moment; try again")
            try:
                status, content, kind = await worker.post(body, headers)
            except aiohttp.ClientError as error:
                # The connection closes before the system reports the end of the process.
                ended = "died" if await worker.ended(_DEATH_SEC) else f"lost a request ({error})"
                message = "%s: version %s %s; the request is repeated"
                _logger.warning(message, self.source.name, worker.version, ended)
                continue
            answer = Response(content, status, media_type=kind)
            if status == 504:  # the only error of MLflow that the worker does not rewrite
                answer = _error_response(
                    504, "the request took too long; ask for fewer images at once"
                )
            answer.headers[_VERSION_HEADER] = worker.version
            return answer
        return _error_response(503, "the model failed twice on this request")

    async def _living_worker(self) -> Worker | None:
        """The current worker; if it died, wait for its replacement."""
        for _ in range(int(self.settings.wait_sec / 0.05)):
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
            "failed": self._failure.version if self._failure else None,
            "waiting": self._waiting,
        }
        return JSONResponse(content)

    def _warn(self, message: str) -> None:
        if message not in self._warned:  # one line per outage, not one per poll
            _logger.warning(message)
            self._warned.add(message)


def _error_response(status: int, sentence: str) -> JSONResponse:
    codes = {503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
    # A body that did not arrive may do so later; it must not be taken for the next request.
    headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(status)
    return JSONResponse(
        {"error_code": codes.get(status, "BAD_REQUEST"), "message": sentence}, status, headers
    )
