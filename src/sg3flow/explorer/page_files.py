"""The files of the page, and answers that are errors: without torch, for `sg3flow serve`."""

from collections.abc import Awaitable, Callable
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sg3flow.errors import cut

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = (
    *("index.html", "icon.svg", "explorer.css", "explorer.js", "server.js", "state.js"),
    *("controls.js", "wall.js", "directions.js", "film.js", "photo.js"),
)
_CODES = {
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "SUPERSEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}

Answer = Callable[[Request], Awaitable[Response]]


def page_routes() -> list[Route]:
    """The page at ``/``, and its files."""
    return [Route("/", _page_file(_FILES[0])), *(Route(f"/{n}", _page_file(n)) for n in _FILES)]


def problem(status: int, sentence: str) -> JSONResponse:
    """An error in the form of all our servers."""
    code = _CODES.get(status, "BAD_REQUEST")
    headers = {408: {"Connection": "close"}, 503: {"Retry-After": "1"}}.get(status)
    return JSONResponse({"error_code": code, "message": sentence}, status, headers)


async def unknown_address(request: Request, error: Exception) -> Response:
    """The answer to an address that there is not."""
    status = int(getattr(error, "status_code", 404))
    what = f"{cut(request.method, 20)} {cut(request.url.path)}"
    return problem(status, f"the explorer has no {what}; the page is at the top of its address")


def _page_file(name: str) -> Answer:
    async def answer(request: Request) -> Response:
        return Response(_read(name), media_type=_TYPES[name.rpartition(".")[2]])

    return answer


@cache
def _read(name: str) -> bytes:
    return (resources.files("sg3flow.explorer") / "page" / name).read_bytes()
