"""HTTP connections of our servers: uvicorn's, with deadlines and with errors as JSON.

uvicorn waits without limit for the rest of a request, answers a malformed one in plain text, and
ends in a traceback if a body that was refused already is malformed further on. That takes a class
of connections: an ASGI application does not see one before its request is complete up to the body.
"""

import asyncio
import json
import socket
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from sg3flow.errors import ConfigError

_MALFORMED = "the request is not valid HTTP, for example a chunk of its body is malformed"


def listening(host: str, port: int) -> socket.socket:
    """Bind an address before a model is loaded; port 0: a free one.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        return socket.create_server((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot listen at {host}:{port}: {reason}; choose another --port"
        ) from None


class Connection(H11Protocol):
    """Closes when the head of a request, or the rest of a refused one, does not arrive in time.

    The deadline for the body of a request is that of ``ArrivingBodies``.
    """

    arrive_sec = 30.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def eof_received(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request; uvicorn's ``msg`` does not say what is wrong."""
        if self.cycle is not None:  # the application shall not answer, too
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(b"".join(map(self._sent, _bad_request())))
        self.transport.close()

    def _sent(self, event: h11.Event) -> bytes:
        return self.conn.send(event) or b""

    def _watch(self) -> None:
        """Start the deadline if the client owes something, or stop it."""
        refused = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not refused and self.conn.their_state is not h11.IDLE:
            self._unwatch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.arrive_sec, self.transport.close)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _bad_request() -> list[h11.Event]:
    content = json.dumps({"error_code": "BAD_REQUEST", "message": _MALFORMED}).encode()
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(content))),
        ("connection", "close"),
    ]
    response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
    return [response, h11.Data(data=content), h11.EndOfMessage()]


def http_server(application: ASGIApp, arrive_sec: float) -> uvicorn.Server:
    """A server for an application whose connections close after ``arrive_sec`` without a head."""
    own: Any = type("Connection", (Connection,), {"arrive_sec": arrive_sec})
    return uvicorn.Server(
        uvicorn.Config(application, http=own, log_config=None, access_log=False, lifespan="off")
    )
