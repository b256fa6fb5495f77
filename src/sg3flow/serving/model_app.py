"""MLflow's scoring application for one registered version, with our checks of request bodies.

``uvicorn --app-dir MODEL/code sg3flow.serving.model_app:app`` serves the version whose folder the
environment variable ``__pyfunc_model_path__`` names, like ``mlflow models serve``, with the code
packaged with it. Bodies that MLflow would accept too leniently are refused before it sees them, and
its own errors are shortened to one sentence. `sg3flow serve` and the container image run this.
"""

import asyncio
import json
import logging

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sg3flow.serving.http_body import (
    JSON_TYPE,
    ArrivingBodies,
    HTTPError,
    check_content_type,
    checked_body,
)
from sg3flow.serving.request_schema import Limits

_logger = logging.getLogger(__name__)
_MAX_SENTENCE = 1000


class CheckedRequests:
    """ASGI middleware: checks the body of requests and rewrites errors.

    Args:
        app: MLflow's application.
        limits: maximum length of a body and number of its rows.
        wait_sec: maximum time for a body to arrive.
    """

    def __init__(self, app: ASGIApp, limits: Limits, wait_sec: float) -> None:
        self.app, self.limits, self.wait_sec = app, limits, wait_sec
        self._arriving = ArrivingBodies(limits.max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", "/invocations"):
            await self.app(scope, receive, send)
            return
        try:
            body = await self._checked_body(Request(scope, receive))
        except HTTPError as error:
            await _error_response(error.status, "BAD_REQUEST", str(error))(scope, receive, send)
        except ClientDisconnect:  # nobody reads the response
            return
        else:
            sender = _RewrittenErrors(scope, receive, send)
            await self.app(_as_json(scope), _Replay(body, receive), sender)

    async def _checked_body(self, request: Request) -> bytes:
        check_content_type(request.headers.get("content-type"))
        declared = request.headers.get("content-length")
        body = await self._arriving.read(request.stream(), declared, self.wait_sec)
        return await asyncio.to_thread(checked_body, body, self.limits.max_pictures)


def _as_json(scope: Scope) -> Scope:
    """The request with the content type as MLflow spells it: it compares upper and lower case."""
    others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*others, (b"content-type", JSON_TYPE.encode())]}


class _Replay:
    """Replays a body that was already read, then forwards messages of the client."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _RewrittenErrors:
    """Forwards responses; errors are collected and rewritten."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.status, self.content = 200, bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        if self.status < 400:
            await self.send(message)
        elif message["type"] == "http.response.body":
            self.content += message.get("body", b"")
            if not message.get("more_body", False):
                answer = _rewritten(self.status, bytes(self.content))
                await answer(self.scope, self.receive, self.send)


def _rewritten(status: int, content: bytes) -> JSONResponse:
    """Rewrite an error of MLflow as code and sentence; details go to the log."""
    if status == 504:
        return _timeout_response()
    text = content.decode(errors="replace")
    try:
        error = json.loads(text)
        code, message = str(error["error_code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        error, code, message = {}, "BAD_REQUEST", text
    if "stack_trace" in error or (status >= 500 and not error):
        _logger.error("a request failed: %s\n%s", message, error.get("stack_trace", ""))
        sentence = "the server failed on this request; its log has the details"
        return _error_response(500, "INTERNAL_ERROR", sentence)
    # MLflow puts the whole request in front of the reason.
    sentence = " ".join(message.rpartition("\nError: ")[2].split())
    return _error_response(status, code, sentence[:_MAX_SENTENCE])


def _timeout_response() -> JSONResponse:
    sentence = "the request took too long; ask for fewer images at once"
    return _error_response(504, "DEADLINE_EXCEEDED", sentence)


def _error_response(status: int, code: str, sentence: str) -> JSONResponse:
    return JSONResponse({"error_code": code, "message": sentence}, status)


def _checked_application() -> ASGIApp:
    # This import loads the model; sg3flow must already be the one packaged with the model.
    from mlflow.pyfunc.scoring_server.app import app as scoring_app

    limits = Limits.from_environment()
    timeout = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    return CheckedRequests(scoring_app, limits, timeout)


app = _checked_application()
