"""Running the server of `sg3flow serve` until somebody ends it."""

import logging
import tempfile
from pathlib import Path

from sg3flow.errors import TrackingError
from sg3flow.serving.front import Front, Settings
from sg3flow.tracking.served import followed


def serve(target: str, host: str, port: int, settings: Settings) -> None:
    """Serve ``NAME@ALIAS`` at ``host:port``; SIGTERM and Ctrl-C end it when all is answered.

    Raises:
        ConfigError, TrackingError: there is nothing of that name to serve.
        CheckpointError: the version does not come up.
    """
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="sg3flow-versions-") as folder:
        front = Front(followed(target, Path(folder)), settings)
        config = uvicorn.Config(
            front.application(), host=host, port=port, log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        server.run()
        if not server.started:
            raise TrackingError(f"{target} could not be served at {host}:{port}; the log says why")
