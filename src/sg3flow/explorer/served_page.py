"""The explorer at ``/`` of `sg3flow serve`: of the version that is served at the moment.

It draws in a process of its own, which starts when the page is first used: the requests of a model
server must not wait for a projection, nor end with it. The process has the weights of the version
and the code of this installation, as versions bring no explorer; equal weights give equal pixels.
When another version takes over, the next call goes to a new process.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sg3flow.explorer.access import OwnPagesOnly
from sg3flow.explorer.page_files import page_routes, problem, unknown_address
from sg3flow.serving.http_body import ArrivingBodies, HTTPError

MAX_BODY_BYTES = 64 << 20
_BODY_SEC = 60.0
_LOAD_SEC = 300.0
_DEATH_SEC = 2.0
_REQUEST_HEADERS = ("content-type", "range")
_ANSWER_HEADERS = ("content-type", "content-range", "accept-ranges", "retry-after")
_VERSION_HEADER = "X-Sg3flow-Version"
_log = logging.getLogger("sg3flow.serve")

Served = Callable[[], tuple[str, Path]]


@asynccontextmanager
async def served_page(
    name: str, served: Served, names: Collection[str] | None, others: Collection[str] = ()
) -> AsyncIterator[ASGIApp]:
    """The application of the page, until the block ends.

    Args:
        name: of the registered model.
        served: gives the version that is served now, and the folder of its files.
        names: host names of the page; None: any.
        others: those of them that it has behind a proxy.
    """
    page = _ServedPage(name, served)
    handlers = {404: unknown_address, 405: unknown_address}
    methods = ["GET", "POST"]
    routes = [*page_routes(), Route("/api/{rest:path}", page.forwarded, methods=methods)]
    try:
        yield OwnPagesOnly(Starlette(routes=routes, exception_handlers=handlers), names, others)
    finally:
        await page.close()


class _ServedPage:
    """Forwards calls to the process of the present version."""

    def __init__(self, name: str, served: Served) -> None:
        self.name, self.served = name, served
        self._process: _VersionProcess | None = None
        self._starting = asyncio.Lock()
        self._arriving = ArrivingBodies(
            MAX_BODY_BYTES, 2 * MAX_BODY_BYTES, "make the photo smaller"
        )

    async def forwarded(self, request: Request) -> Response:
        """The answer of the process; one that has ended is replaced."""
        try:
            declared = request.headers.get("content-length")
            body = await self._arriving.read(request.stream(), declared, _BODY_SEC)
        except HTTPError as error:
            return problem(error.status, str(error))
        except ClientDisconnect:
            return problem(400, "the request ended early")
        for _ in range(2):
            process = await self._present()
            if process is None:
                break
            try:
                return await process.answer(request, body)
            except aiohttp.ClientError:
                # The connection closes before the system reports the end of the process.
                await process.ended(_DEATH_SEC)
        return problem(
            503, "the explorer has ended or did not start; the log of the server has the reason"
        )

    async def close(self) -> None:
        """End the process."""
        if self._process is not None:
            await self._process.stop()

    async def _present(self) -> "_VersionProcess | None":
        """The process of the present version; None: it does not start."""
        async with self._starting:
            version, folder = self.served()
            old = self._process
            if old is not None and old.version == version and old.is_alive:
                return old
            self._process = None
            if old is not None:
                await old.stop()
            self._process = await _VersionProcess.start(self.name, version, folder)
            return self._process


class _VersionProcess:
    """A process that explores one version."""

    def __init__(self, version: str, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.version, self._process, self._folder = version, process, folder
        connector = aiohttp.UnixConnector(str(folder / "socket"), limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)

    @classmethod
    async def start(cls, name: str, version: str, model: Path) -> "_VersionProcess | None":
        """Start it and wait until it answers; None: it does not, and the log says why."""
        folder = Path(tempfile.mkdtemp(prefix="sg3flow-explorer-"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sg3flow.explorer.version_process"),
            *(str(model), f"models:/{name}/{version}", str(folder / "socket")),
            stdin=asyncio.subprocess.PIPE,  # it ends with us
            env=os.environ | {"TMPDIR": str(folder)},  # so that nothing is left behind
            start_new_session=True,
        )
        started = cls(version, process, folder)
        try:
            async with asyncio.timeout(_LOAD_SEC):
                while started.is_alive and not await started._answers():
                    await asyncio.sleep(0.05)
        except BaseException as error:
            await started.stop()
            if not isinstance(error, TimeoutError):
                raise
        if started.is_alive:
            _log.info("%s: exploring version %s", name, version)
            return started
        _log.warning("%s: the explorer of version %s did not start", name, version)
        await started.stop()
        return None

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.returncode is None

    async def answer(self, request: Request, body: bytes) -> Response:
        """Its answer to a request.

        Raises:
            aiohttp.ClientError: it has ended.
        """
        url = f"http://explorer/api/{request.path_params['rest']}?{request.url.query}"
        headers = {n: request.headers[n] for n in _REQUEST_HEADERS if n in request.headers}
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            kept = {n: answer.headers[n] for n in _ANSWER_HEADERS if n in answer.headers}
            kept[_VERSION_HEADER] = self.version
            return Response(await answer.read(), answer.status, kept)

    async def ended(self, wait_sec: float) -> None:
        """Wait for its end, at most ``wait_sec``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), wait_sec)

    async def stop(self) -> None:
        """End the process and remove its folder."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _answers(self) -> bool:
        try:
            async with self._session.get("http://explorer/api/model") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False
