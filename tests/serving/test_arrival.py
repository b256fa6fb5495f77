"""What the front does with requests as they arrive: rows, bodies, heads, malformed pieces.

Limits are low, and connections few: none of this would trouble another server.
"""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Route

from sg3flow.serving.http_body import ArrivingBodies, HTTPError, check_rows, checked_body
from sg3flow.serving.http_server import http_server

_SHORT, _LONG = 0.2, 600.0  # deadlines: one that passes, one that does not


def _forms(rows: int) -> list[dict]:
    """A request of so many rows in every form, with lists and strings in them."""
    records = [{"seed": i, "label": [0.5, -1, 2], "format": "png"} for i in range(rows)]
    columns = {name: [row[name] for row in records] for name in ("seed", "label", "format")}
    data = [list(row.values()) for row in records]
    names = [f"row {i}, [1]" for i in range(rows)]
    return [
        {"params": {"label": [0, 1, 2, 3, 4, 5]}, "dataframe_records": records},
        {"instances": records, "params": {"label": [0, 1, 2, 3, 4, 5]}},
        {"inputs": columns},
        {"dataframe_split": {"columns": [*columns], "data": data}},
        {"dataframe_split": {"index": names, "columns": [*columns], "data": data}},
    ]


@pytest.mark.parametrize("form", range(5))
@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n", " : ")])
def test_rows_are_counted_before_a_request_is_parsed(form, separators):
    for rows in (1, 2, 3):
        body = json.dumps(_forms(rows)[form], separators=separators).encode()
        if rows <= 2:
            check_rows(body, 2)
            checked_body(body, 2)
            continue
        for check in (check_rows, checked_body):
            with pytest.raises(HTTPError, match="at most 2 images per request") as caught:
                check(body, 2)
            assert caught.value.status == 400


def test_a_limit_of_one_row_leaves_room_for_names_and_vectors():
    for body in _forms(1):
        check_rows(json.dumps(body).encode(), 1)
    layers = {"w": [[0.5] * 16] * 20}
    check_rows(json.dumps({"dataframe_records": [layers]}).encode(), 1)


def test_numbers_of_one_row_are_counted_before_a_request_is_parsed():
    check_rows(json.dumps({"dataframe_records": [{"z": [1] * 20_000}]}).encode(), 1)
    for body in (
        {"dataframe_records": [{"z": [1] * 70_000}]},
        {"dataframe_records": [{"seed": 1}], "params": {str(i): 0 for i in range(210_000)}},
    ):
        for check in (check_rows, checked_body):
            with pytest.raises(HTTPError, match="more values than its images need") as caught:
                check(json.dumps(body).encode(), 1)
            assert caught.value.status == 400


def test_other_faults_are_left_to_the_full_check():
    for body in (b"", b"\xff", b"[1, 2, 3]", b"}" * 9, b"[" * 9, b'{"params": [1, 2, 3]}', b'"a'):
        check_rows(body, 1)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("x", "index must be a list with a name or number for each row, not 'x'"),
        (True, "index must be a list with a name or number for each row, not True"),
        ({"a": 1}, "for each row, not an object of 1"),
        ([[1]], "for each row, not a list of 1"),
        ([None], "for each row, not a list of 1"),
        ([1, 2], "for each row: 1 here, not 2"),
    ],
)
def test_a_wrong_index_is_named(index, words):
    split = {"columns": ["seed"], "data": [[1]], "index": index}
    with pytest.raises(HTTPError, match=r"^dataframe_split: index must") as caught:
        checked_body(json.dumps({"dataframe_split": split}).encode())
    assert words in str(caught.value)
    for right in (["a"], [7], [0.5], None):
        checked_body(json.dumps({"dataframe_split": split | {"index": right}}).encode())


async def _pieces(*pieces: bytes, stops: bool = False):
    for piece in pieces:
        yield piece
    if stops:
        await asyncio.Event().wait()


def _status(waiting) -> int:
    try:
        asyncio.run(waiting)
    except HTTPError as error:
        return error.status
    return 200


def test_a_body_that_stops_is_given_up():
    bodies = ArrivingBodies(100)
    assert _status(bodies.read(_pieces(b"{", stops=True), "9", _SHORT)) == 408
    assert _status(bodies.read(_pieces(b"{", b"}"), None, _LONG)) == 200
    assert _status(bodies.read(_pieces(b"a" * 60, b"a" * 41), None, _LONG)) == 413
    assert _status(bodies.read(_pieces(), "101", _LONG)) == 413


def test_long_bodies_that_stop_do_not_keep_short_ones_out():
    bodies = ArrivingBodies(100, max_bytes=200)

    async def crowd() -> None:
        stopped = [
            asyncio.create_task(bodies.read(_pieces(b"a" * 90, stops=True), None, _LONG))
            for _ in range(3)  # together more than max_bytes; the third is refused
        ]
        done, _ = await asyncio.wait(stopped, return_when=asyncio.FIRST_COMPLETED)
        (error,) = [task.exception() for task in done]
        assert isinstance(error, HTTPError) and error.status == 503
        assert await bodies.read(_pieces(b"b" * 40, b"b" * 10), None, _LONG) == b"b" * 50
        with pytest.raises(HTTPError, match="too many long requests"):
            await bodies.read(_pieces(b"b" * 90), None, _LONG)
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)
        assert await bodies.read(_pieces(b"b" * 100), None, _LONG) == b"b" * 100

    asyncio.run(crowd())


async def _echo(request):
    try:
        return JSONResponse({"length": len(await request.body())})
    except ClientDisconnect:
        return JSONResponse({}, 400)


async def _refuse(request):
    return JSONResponse({}, 415)


@asynccontextmanager
async def _connected(arrive_sec: float):
    """A server, and a function that sends pieces and gives all that comes back."""
    routes = [Route("/echo", _echo, methods=["POST"]), Route("/no", _refuse, methods=["POST"])]
    with socket.create_server(("127.0.0.1", 0)) as address:
        server = http_server(Starlette(routes=routes), arrive_sec)
        serving = asyncio.create_task(server.serve(sockets=[address]))

        async def send(*pieces: bytes, ends: bool = False) -> bytes:
            reader, writer = await asyncio.open_connection(*address.getsockname())
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            if ends:
                writer.write_eof()
            try:
                async with asyncio.timeout(_LONG):
                    return await reader.read()
            finally:
                writer.close()

        try:
            yield send
        finally:
            server.should_exit = True
            await serving


def _head(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def test_malformed_requests_get_400_as_json_and_no_traceback(caplog):
    async def live() -> None:
        async with _connected(_LONG) as send:
            for pieces in (
                (_head("/echo") + b"zz\r\n",),
                (_head("/echo") + b"2\r\n{}\r\n", b"zz\r\n"),
                (_head("/echo"), b"2\r\n{}XX\r\n"),
                (b"no request\r\n\r\n",),
            ):
                head, _, content = (await send(*pieces)).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 400 ") and b"application/json" in head
                assert "not valid HTTP" in json.loads(content)["message"]
            cut = await send(_head("/echo"), b"5\r\n{}", ends=True)
            assert cut.startswith(b"HTTP/1.1 400 ")
            assert (await send(_head("/no"), b"zz\r\n")).startswith(b"HTTP/1.1 415 ")
            close = _head("/echo").replace(b"Host: x", b"Host: x\r\nConnection: close")
            assert b'{"length":2}' in await send(close, b"2\r\n{}\r\n", b"0\r\n\r\n")

    asyncio.run(live())
    assert "Traceback" not in caplog.text


def test_a_connection_without_a_whole_head_is_closed():
    async def live() -> None:
        async with _connected(_SHORT) as send:
            assert await send(b"POST /echo HTTP/1.1\r\nHo") == b""
            assert await send() == b""
            refused = await send(_head("/no"), b"2\r\n{}\r\n", b"2\r\n{}\r\n")
            assert refused.startswith(b"HTTP/1.1 415 ")

    asyncio.run(live())
