"""Serves the version that an alias points to, until it is stopped: ``sg3flow serve``."""

import asyncio
import logging
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from starlette.types import ASGIApp

from sg3flow.errors import ConfigError, TrackingError
from sg3flow.serving.gateway import Gateway, Settings, Source
from sg3flow.serving.http_server import http_server, listening
from sg3flow.tracking.mlflow_store import (
    current_aliases,
    find_version,
    open_registry,
    require_files,
    tracking_errors,
)
from sg3flow.tracking.tracked_runs import split_version

# An application for all addresses that the gateway does not answer, until the block ends.
Page = Callable[[Gateway], AbstractAsyncContextManager[ASGIApp]]


def serve(target: str, host: str, port: int, settings: Settings, page: Page | None = None) -> None:
    """Serve ``NAME@ALIAS`` at ``host:port``; SIGTERM and Ctrl-C end it after open requests.

    Args:
        page: opens what answers all other addresses; None: nothing does.

    Raises:
        ConfigError, TrackingError: no such model or alias, or the address cannot be used.
        CheckpointError: the version does not start.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn ends on SIGTERM and then raises it again; by default that would leave our folders and
    # processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listening(host, port) as address:
        with tempfile.TemporaryDirectory(prefix="sg3flow-versions-") as folder:
            source = registry_source(target, Path(folder))
            asyncio.run(_serve(Gateway(source, settings), address, page))


async def _serve(gateway: Gateway, address: socket.socket, page: Page | None) -> None:
    async with gateway.running(), AsyncExitStack() as stack:
        shown = None if page is None else await stack.enter_async_context(page(gateway))
        server = http_server(gateway.application(shown), gateway.settings.body_sec)
        await server.serve(sockets=[address])


def registry_source(target: str, folder: Path) -> Source:
    """The source that gives the present version of ``NAME@ALIAS``.

    Args:
        folder: versions are copied here, so that the store may go away later.

    Raises:
        ConfigError: no such target, or no such alias.
        TrackingError: no such model, or the registry cannot be used.
    """
    name, alias = split_version(target) or ("", "")
    if not alias.startswith("@"):
        raise ConfigError(
            f"give NAME@ALIAS, for example sg3flow-starter@champion, not '{target[:80]}'"
        )
    store = open_registry()
    with tracking_errors(store.uri):
        find_version(store, name, alias)

    def wanted() -> str:
        with tracking_errors(store.uri):
            version = current_aliases(store, name).get(alias[1:])
        if version is None:
            raise TrackingError(f"{name} has no alias {alias[1:]} any more")
        return version

    def fetch(version: str) -> Path:
        import mlflow

        place = Path(tempfile.mkdtemp(prefix=f"version-{version}-", dir=folder))
        try:
            with tracking_errors(store.uri):
                uri = f"models:/{name}/{version}"
                mlflow.artifacts.download_artifacts(uri, dst_path=str(place))
                require_files(place, store)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return place

    return Source(f"{name}{alias}", wanted, fetch)
