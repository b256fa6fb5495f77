"""The explorer of one version, for `sg3flow serve`: a process behind a Unix socket.

``python -m sg3flow.explorer.version_process FOLDER NETWORK SOCKET`` ends when its standard input
does, and when nobody has used it for half an hour: it holds a second copy of the weights.
"""

import asyncio
import os
import socket
import sys
import threading
import time
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from sg3flow.explorer.application import explorer_application
from sg3flow.explorer.server import ARRIVE_SEC, opened
from sg3flow.serving.http_server import http_server
from sg3flow.settings import DEVICE

IDLE_SEC = 1800.0
_CHECK_SEC = 5.0


class _LastUse:
    """ASGI middleware: when the last request came."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.at = app, time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.at = time.monotonic()
        await self.app(scope, receive, send)


def run(folder: str, network: str, place: Path, idle_sec: float = IDLE_SEC) -> None:
    """Answer at a Unix socket until nobody asks for ``idle_sec``; errors as ``opened``."""
    with (
        opened(folder, network, DEVICE.text()) as explorer,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(place))
        listener.listen()
        application = _LastUse(explorer_application(explorer))
        server = http_server(application, ARRIVE_SEC)

        async def end_when_idle() -> None:
            while not (time.monotonic() - application.at > idle_sec and explorer.jobs.is_idle):
                await asyncio.sleep(min(_CHECK_SEC, idle_sec))
            server.should_exit = True

        async def serve() -> None:
            watcher = asyncio.create_task(end_when_idle())
            await server.serve(sockets=[listener])
            watcher.cancel()

        asyncio.run(serve())


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
