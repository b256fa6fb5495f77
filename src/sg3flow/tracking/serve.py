"""Running the server of `sg3flow serve` until somebody ends it."""

import asyncio
import logging
import signal
import socket
import sys
import tempfile
from pathlib import Path

from sg3flow.errors import ConfigError
from sg3flow.serving.gateway import Gateway, Settings
from sg3flow.tracking.served import followed


def serve(target: str, host: str, port: int, settings: Settings) -> None:
    """Serve ``NAME@ALIAS`` at ``host:port``; SIGTERM and Ctrl-C end it when all is answered.

    Raises:
        ConfigError, TrackingError: there is nothing of that name to serve, or no such address.
        CheckpointError: the version does not come up.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # uvicorn ends well on SIGTERM and then raises it again: by default that would leave our own
    # folders and processes behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listening(host, port) as address:
        with tempfile.TemporaryDirectory(prefix="sg3flow-versions-") as folder:
            source = followed(target, Path(folder))
            asyncio.run(_serve(Gateway(source, settings), address))


async def _serve(gateway: Gateway, address: socket.socket) -> None:
    import uvicorn

    async with gateway.running():
        config = uvicorn.Config(
            gateway.application(), log_config=None, access_log=False, lifespan="off"
        )
        await uvicorn.Server(config).serve(sockets=[address])


def _listening(host: str, port: int) -> socket.socket:
    """Take the address before a model is loaded for it."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot listen at {host}:{port}: {reason}; choose another --port"
        ) from None
