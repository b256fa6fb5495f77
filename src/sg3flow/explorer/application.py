"""The web application of a generator: one page, and the calls that it makes.

All addresses are relative, so that the page works below any path of a proxy. A call answers with a
picture, a file or JSON; an error is ``{"error_code": …, "message": …}`` with one sentence.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sg3flow.errors import ConfigError, DataError, Sg3flowError, cut
from sg3flow.explorer.drawing_thread import SupersededError, TooBusyError
from sg3flow.explorer.explorer import Explorer
from sg3flow.explorer.page_files import Answer, page_routes, problem, unknown_address
from sg3flow.explorer.pictures import object_of
from sg3flow.rendering.call_arguments import whole_number
from sg3flow.serving.http_body import ArrivingBodies, HTTPError, check_content_type

MAX_JSON_BYTES = 1 << 20
MAX_PHOTO_BYTES = 64 << 20
BODY_SEC = 60.0
_PHOTO_TYPE = "application/octet-stream"  # not one that a form of another site can send
_ADVICE = "make the photo smaller"
_log = logging.getLogger(__name__)


def explorer_application(explorer: Explorer) -> Starlette:
    """The ASGI application of an explorer; ``access.py`` has what goes around it."""
    calls = _Calls(explorer)
    routes = [
        *page_routes(),
        Route("/health", _answered(calls.health)),
        Route("/api/model", _answered(calls.model)),
        Route("/api/directions", _answered(calls.directions), methods=["POST"]),
        Route("/api/directions.npz", _answered(calls.directions_file), methods=["POST"]),
        Route("/api/picture", _answered(calls.picture), methods=["POST"]),
        Route("/api/w", _answered(calls.w), methods=["POST"]),
        Route("/api/command", _answered(calls.command), methods=["POST"]),
        Route("/api/video", _answered(calls.video), methods=["POST"]),
        Route("/api/projection", _answered(calls.projection), methods=["POST"]),
        Route("/api/jobs/{name}", _answered(calls.job)),
        Route("/api/jobs/{name}/stop", _answered(calls.stop), methods=["POST"]),
        Route("/api/jobs/{name}/{file}", _answered(calls.job_file)),
    ]
    handlers = {404: unknown_address, 405: unknown_address}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Calls:
    """What the page can ask for."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._texts = ArrivingBodies(MAX_JSON_BYTES, 16 << 20, "send less")
        self._photos = ArrivingBodies(MAX_PHOTO_BYTES, 2 * MAX_PHOTO_BYTES, _ADVICE)

    async def health(self, request: Request) -> Response:
        return Response("\n", media_type="application/json")

    async def model(self, request: Request) -> Response:
        return JSONResponse(self.explorer.facts())

    async def directions(self, request: Request) -> Response:
        given = await self._json(request, ("directions",))
        key = given.get("directions")
        found = await self._drawn("", 0, self.explorer.directions_of, key)
        return JSONResponse(found)

    async def directions_file(self, request: Request) -> Response:
        given = await self._json(request, ("directions",))
        key = given.get("directions")
        found = await self._drawn("", 0, self.explorer.directions_npz, key)
        return Response(found, media_type="application/octet-stream")

    async def picture(self, request: Request) -> Response:
        given = await self._json(request, ("picture", "slot", "side"))
        slot = str(given.get("slot", ""))[:100]
        side = whole_number("side", given.get("side", 0), 0, 1 << 14)
        picture = self.explorer.picture(given.get("picture"))
        # The large picture goes before those of the wall, which are small.
        png = await self._drawn(slot, int(side > 0), self.explorer.renderer.png, picture, side)
        return Response(png, media_type="image/png")

    async def w(self, request: Request) -> Response:
        given = await self._json(request, ("picture",))
        picture = self.explorer.picture(given.get("picture"))
        npz = await self._drawn("", 0, self.explorer.renderer.npz, picture)
        return Response(npz, media_type="application/octet-stream")

    async def command(self, request: Request) -> Response:
        given = await self._json(request, ("picture",))
        picture = self.explorer.picture(given.get("picture"))
        return JSONResponse(self.explorer.command_of(picture))

    async def video(self, request: Request) -> Response:
        given = await self._json(request, ("pictures", "frames", "fps"))
        job = await asyncio.to_thread(self.explorer.start_film, given)
        return JSONResponse(job.facts(), 202)

    async def projection(self, request: Request) -> Response:
        if request.headers.get("content-type") != _PHOTO_TYPE:
            raise HTTPError(415, f"the content type of a photo must be {_PHOTO_TYPE}")
        photo = await self._body(request, self._photos)
        job = await asyncio.to_thread(
            self.explorer.start_projection, photo, dict(request.query_params)
        )
        return JSONResponse(job.facts(), 202)

    async def job(self, request: Request) -> Response:
        return JSONResponse(self.explorer.jobs.find(request.path_params["name"]).facts())

    async def stop(self, request: Request) -> Response:
        return JSONResponse(self.explorer.jobs.stop(request.path_params["name"]).facts())

    async def job_file(self, request: Request) -> Response:
        job = self.explorer.jobs.find(request.path_params["name"])
        content, kind = job.file(request.path_params["file"])
        return Response(content, media_type=kind)

    async def _drawn(self, slot: str, rank: int, call: Callable[..., Any], *args: Any) -> Any:
        """The result of a call in the drawing thread; without a slot, newer calls leave it."""
        work = self.explorer.drawing.submit(slot or object(), rank, lambda: call(*args))
        return await asyncio.wrap_future(work)

    async def _json(self, request: Request, keys: tuple[str, ...]) -> Any:
        check_content_type(request.headers.get("content-type"))
        body = await self._body(request, self._texts)
        try:
            content = json.loads(body, parse_constant=_no_constant)
        except RecursionError:
            raise ConfigError("the request is nested too deep") from None
        except ValueError as error:
            raise ConfigError(f"the request is not valid JSON: {cut(str(error), 200)}") from None
        return object_of("the request", content, keys)

    async def _body(self, request: Request, arriving: ArrivingBodies) -> bytes:
        declared = request.headers.get("content-length")
        return await arriving.read(request.stream(), declared, BODY_SEC)


def _no_constant(name: str) -> Any:
    raise ConfigError(f"{name} is not a JSON number")


def _answered(answer: Answer) -> Answer:
    """A call whose errors are answered with a status and a sentence."""

    async def answered(request: Request) -> Response:
        try:
            return await answer(request)
        except HTTPError as error:
            return problem(error.status, str(error))
        except SupersededError as error:
            return problem(409, str(error))
        except TooBusyError as error:
            return problem(503, str(error))
        except (ConfigError, DataError) as error:
            return problem(400, str(error))
        except ClientDisconnect:  # nobody is there to read the answer
            return problem(400, "the request ended early")
        except Sg3flowError as error:
            return problem(500, str(error))
        except Exception:
            _log.exception("a request failed")
            return problem(500, "the explorer failed on this request; its log has the details")

    return answered
