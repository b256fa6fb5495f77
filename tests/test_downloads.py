import email.utils
import gzip
import hashlib
import json
import multiprocessing
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sg3flow import progress
from sg3flow.addresses import address_mark
from sg3flow.downloads import (
    RetryPolicy,
    cached,
    cached_from,
    download,
    proving,
    recorded_digest,
)
from sg3flow.errors import DataError
from sg3flow.files import DiskFullError
from sg3flow.settings import cache_folder

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 12_000  # 3 MB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = RetryPolicy(connect_sec=2, read_sec=0.5, tries=2, pause_sec=0.01)


class Server:
    """A web server whose answer to each request a test decides."""

    def __init__(self) -> None:
        self.content, self.etag = CONTENT, '"one"'
        self.requests: list[dict[str, str]] = []
        self.answer: Callable[[BaseHTTPRequestHandler, int], None] = self.whole
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner.requests.append(dict(self.headers))
                self.close_connection = True
                try:
                    owner.answer(self, len(owner.requests))
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/set.zip"

    def head(self, to: BaseHTTPRequestHandler, code: int, **headers: object) -> None:
        to.send_response(code)
        to.send_header("Connection", "close")
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), str(value))
        to.end_headers()

    def whole(self, to: BaseHTTPRequestHandler, number: int, cut: int | None = None) -> None:
        """The file, or its rest from the asked byte on; ``cut``: break off after so many bytes."""
        asked, start = to.headers.get("Range"), 0
        if asked and to.headers.get("If-Range") == self.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        rest, size = self.content[start:], len(self.content)
        if start:
            span = f"bytes {start}-{size - 1}/{size}"
            self.head(to, 206, Content_Length=len(rest), ETag=self.etag, Content_Range=span)
        else:
            self.head(to, 200, Content_Length=len(rest), ETag=self.etag)
        to.wfile.write(rest[:cut])

    def cut_first(self, to: BaseHTTPRequestHandler, number: int) -> None:
        self.whole(to, number, cut=1_500_000 if number == 1 else None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetch(server: Server, dest: Path, **options: object) -> str:
    return download(server.url, dest, policy=QUICK, **options)  # type: ignore[arg-type]


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_nothing_else_is_left(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "set.zip", sha256=DIGEST.upper()) == DIGEST
    assert (tmp_path / "set.zip").read_bytes() == CONTENT
    assert only(tmp_path) == ["set.zip"]


def test_a_broken_transfer_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.answer = server.cut_first
    assert fetch(server, tmp_path / "set.zip") == DIGEST
    assert len(server.requests) == 2
    assert server.requests[1]["If-Range"] == '"one"'
    assert int(server.requests[1]["Range"][6:-1]) > 1_000_000


def test_a_later_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    once = RetryPolicy(connect_sec=2, read_sec=0.5, tries=1, pause_sec=0.01)
    server.content = CONTENT[:1_600_000]
    server.answer = lambda to, number: server.whole(to, number, cut=1_500_000 if number == 1 else 0)
    with pytest.raises(DataError, match="cannot download"):
        download(server.url, tmp_path / "set.zip", policy=once)
    assert only(tmp_path) == ["set.zip.part", "set.zip.part.json"]
    server.answer = server.whole
    download(server.url, tmp_path / "set.zip", policy=once)
    assert (tmp_path / "set.zip").read_bytes() == CONTENT[:1_600_000]
    assert "Range" in server.requests[-1]
    assert only(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_file_that_the_server_packs_is_not_continued(
    server: Server, tmp_path: Path, sha256: str | None
) -> None:
    noise = random.Random(0).randbytes(len(CONTENT)) if sha256 is None else CONTENT
    packed = gzip.compress(noise)

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        asked = to.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        head = {"ETag": '"one"', "Content_Encoding": "gzip", "Content_Length": len(packed) - start}
        if asked:
            head["Content_Range"] = f"bytes {start}-{len(packed) - 1}/{len(packed)}"
        server.head(to, 206 if asked else 200, **head)
        to.wfile.write(packed[start:] if number > 2 else packed[: len(packed) // 2])

    server.answer = answer
    once = RetryPolicy(connect_sec=2, read_sec=0.5, tries=1, pause_sec=0.01)
    with pytest.raises(DataError, match="cannot download"):
        download(server.url, tmp_path / "set.zip", policy=once, sha256=sha256)
    assert only(tmp_path) == []
    download(server.url, tmp_path / "set.zip", policy=once, sha256=sha256)
    assert (tmp_path / "set.zip").read_bytes() == noise
    assert "Range" not in server.requests[-1]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        server.head(to, 200, Content_Length=len(CONTENT), ETag='"one"')
        to.wfile.write(CONTENT[:1_500_000] if number == 1 else CONTENT)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == DIGEST


def test_a_file_that_changed_in_between_is_not_mixed(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number == 2:
            server.content, server.etag = CONTENT[::-1], '"two"'
        server.cut_first(to, number)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_a_server_that_ignores_if_range_is_found_out(server: Server, tmp_path: Path) -> None:
    other = CONTENT[::-1]

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            return server.whole(to, number, cut=1_500_000)
        server.content, server.etag = other, '"two"'
        start = int(to.headers.get("Range", "bytes=0-")[6:-1])
        if not start:
            return server.whole(to, number)
        span = f"bytes {start}-{len(other) - 1}/{len(other)}"
        rest = other[start:]
        server.head(to, 206, Content_Length=len(rest), ETag='"two"', Content_Range=span)
        to.wfile.write(rest)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == hashlib.sha256(other).hexdigest()


def test_a_part_of_another_place_is_asked_again(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number != 2:
            return server.cut_first(to, number)
        rest = CONTENT[7:]
        span = f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"
        server.head(to, 206, Content_Length=len(rest), ETag='"one"', Content_Range=span)
        to.wfile.write(rest)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == DIGEST


def test_a_complete_part_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    note = {
        "address": address_mark(server.url),
        "etag": '"one"',
        "last_modified": "",
        "total": len(CONTENT),
        "is_encoded": False,
    }
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    (tmp_path / "set.zip.part.json").write_text(json.dumps(note))
    assert fetch(server, tmp_path / "set.zip", sha256=DIGEST) == DIGEST
    assert not server.requests


def test_a_part_file_of_unknown_origin_is_not_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(b"something else")
    (tmp_path / "set.zip.part.json").write_text("{broken")
    assert fetch(server, tmp_path / "set.zip") == DIGEST


def test_a_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"its SHA-256 is {DIGEST}"):
        fetch(server, tmp_path / "set.zip", sha256="0" * 64)
    assert only(tmp_path) == []
    with pytest.raises(DataError, match="64 hexadecimal digits"):
        fetch(server, tmp_path / "set.zip", sha256="abc")


def test_an_error_keeps_what_stood_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"old")
    with pytest.raises(DataError):
        fetch(server, tmp_path / "set.zip", sha256="0" * 64)
    assert (tmp_path / "set.zip").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_web_page_is_no_file(server: Server, tmp_path: Path, kind: str, pieces: int) -> None:
    page = b"\n <!DOCTYPE html><title>Sign in</title>"

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        server.head(to, 200, Content_Type=kind, Content_Length=len(page), ETag='"page"')
        for place in range(0, len(page), -(-len(page) // pieces)):
            to.wfile.write(page[place : place - (-len(page) // pieces)])
            threading.Event().wait(0.03 * (pieces > 1))

    server.answer = answer
    with pytest.raises(DataError, match="a web page instead of the file"):
        fetch(server, tmp_path / "set.zip")
    assert only(tmp_path) == []


def test_a_redirect_is_followed_and_a_circle_is_not(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if to.path == "/set.zip":
            return server.head(to, 302, Location="/real.zip", Content_Length=0)
        server.whole(to, number)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == DIGEST
    server.answer = lambda to, number: server.head(to, 302, Location="/a", Content_Length=0)
    with pytest.raises(DataError, match="redirects"):
        fetch(server, tmp_path / "set.zip")


def test_a_server_that_stalls_is_tried_again(server: Server, tmp_path: Path) -> None:
    hold = threading.Event()

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number > 1:
            return server.whole(to, number)
        server.whole(to, number, cut=1000)
        to.wfile.flush()
        hold.wait(2)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == DIGEST
    hold.set()


def test_a_server_that_never_sends_all_is_an_error(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        server.head(to, 200, Content_Length=len(CONTENT) + 5)
        to.wfile.write(CONTENT)

    server.answer = answer
    with pytest.raises(DataError, match=r"cannot download set\.zip from http://127"):
        fetch(server, tmp_path / "set.zip")
    assert only(tmp_path) == []
    assert len(server.requests) == 3  # one got further than nothing, two did not get further


def test_a_busy_server_is_tried_again_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            return server.head(to, 503, Content_Length=0)
        server.whole(to, number)

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == DIGEST
    server.requests.clear()
    server.answer = lambda to, number: server.head(to, 404, Content_Length=0)
    with pytest.raises(DataError, match="404"):
        fetch(server, tmp_path / "set.zip")
    assert len(server.requests) == 1


@pytest.mark.parametrize("declares", [True, False])
def test_a_file_over_the_limit_is_refused(server: Server, tmp_path: Path, declares: bool) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        length = {"Content_Length": len(CONTENT)} if declares else {}
        server.head(to, 200, ETag='"one"', **length)
        to.wfile.write(CONTENT)

    server.answer = answer
    with pytest.raises(DataError, match="at most 1,000 are accepted"):
        fetch(server, tmp_path / "set.zip", max_bytes=1000)
    assert only(tmp_path) == []


def test_a_file_larger_than_the_disk_is_refused_at_once(server: Server, tmp_path: Path) -> None:
    server.answer = lambda to, number: server.head(to, 200, Content_Length=1 << 55)
    with pytest.raises(DataError, match="are needed in"):
        fetch(server, tmp_path / "set.zip", max_bytes=1 << 60)
    assert only(tmp_path) == []


def test_without_a_server_the_error_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://name:secret@127.0.0.1:{free.getsockname()[1]}/afhq.zip"
    with pytest.raises(DataError) as caught:
        download(url, tmp_path / "afhq.zip", sha256=DIGEST, policy=QUICK)
    message = str(caught.value)
    assert "\n" not in message and "secret" not in message
    for part in ("afhq.zip", "http://127.0.0.1:", DIGEST, f"put the file at {tmp_path}/afhq.zip"):
        assert part in message


def test_the_cache_is_asked_first(server: Server, cache: Path) -> None:
    path = cached(server.url, "set.zip", DIGEST, policy=QUICK)
    assert path == cache / "set.zip"
    assert cached(server.url, "set.zip", DIGEST) == path
    assert cached(server.url, "set.zip") == path
    assert len(server.requests) == 1
    assert recorded_digest(server.url, "set.zip") == DIGEST
    assert recorded_digest(server.url + "?other", "set.zip") is None


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, cache: Path) -> None:
    cached(server.url, "set.zip", policy=QUICK).write_bytes(b"damaged")
    assert cached(server.url, "set.zip", policy=QUICK).read_bytes() == CONTENT


def test_the_same_name_from_another_address_is_another_file(server: Server, cache: Path) -> None:
    cached(server.url, "set.zip", policy=QUICK)
    server.content = b"PK another"
    assert cached(server.url + "?2", "set.zip", policy=QUICK).read_bytes() == b"PK another"


def test_a_file_put_into_the_cache_by_hand_is_taken(cache: Path) -> None:
    cache.mkdir()
    (cache / "set.zip").write_bytes(CONTENT)
    assert cached("http://127.0.0.1:9/set.zip", "set.zip", DIGEST).read_bytes() == CONTENT


def _fetch_in_process(url: str) -> bytes:
    return cached(url, "set.zip", DIGEST).read_bytes()[:10]


@pytest.mark.skipif(sys.platform != "linux", reason="the rule of Linux")
def test_where_the_cache_is(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SG3FLOW_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "sg3flow"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sg3flow"
    monkeypatch.setenv("SG3FLOW_CACHE", "~/ours")
    assert cache_folder() == tmp_path / "ours"


def test_two_processes_download_once(server: Server, cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_fetch_in_process, [server.url] * 2, chunksize=1) == [CONTENT[:10]] * 2
    assert len(server.requests) == 1


def test_a_part_file_in_use_is_left_alone(server: Server, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "set.zip.part").open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is downloading"):
            fetch(server, tmp_path / "set.zip")
    assert only(tmp_path) == ["set.zip.part"]


def test_no_secret_of_an_address_is_written_or_told(server: Server, cache: Path) -> None:
    secret = server.url.replace("//", "//me:hush@") + "?token=hush"
    server.answer = lambda to, number: server.whole(to, number, cut=1_500_000 if number < 2 else 0)
    once = RetryPolicy(connect_sec=2, read_sec=0.5, tries=1, pause_sec=0.01)
    with pytest.raises(DataError) as caught:
        cached(secret, "set.zip", policy=once)
    output = str(caught.value) + (cache / "set.zip.part.json").read_text()
    assert server.requests[0]["Authorization"].startswith("Basic ")
    server.answer = server.whole
    cached(secret, "set.zip", policy=once)
    assert "Range" in server.requests[-1]
    output += (cache / "set.zip.json").read_text()
    assert "hush" not in output and server.url in output
    for bad in ("https://me:hu/sh@host/x", "ftp://me:hush@host/x", "https://hush@[/x?hush"):
        with pytest.raises(DataError) as caught:
            download(bad, cache / "x")
        assert "hu" not in str(caught.value)


def test_an_unproven_download_is_dropped_when_it_is_of_no_use(server: Server, cache: Path) -> None:
    path = cached(server.url, "set.zip", policy=QUICK)
    assert recorded_digest(server.url, "set.zip") is None
    with pytest.raises(DiskFullError), proving(path):
        raise DiskFullError("the disk is full")
    with pytest.raises(KeyboardInterrupt), proving(path):
        raise KeyboardInterrupt
    assert path.exists()
    with pytest.raises(DataError), proving(path):
        raise DataError("no zip file")
    assert only(cache) == [".set.zip.lock"]
    with proving(cached(server.url, "set.zip", policy=QUICK)):
        pass
    assert recorded_digest(server.url, "set.zip") == DIGEST
    with pytest.raises(DataError), proving(path):
        raise DataError("something else is wrong")
    assert path.exists()


def test_a_shared_cache_need_not_be_writable(server: Server, cache: Path) -> None:
    path = cached(server.url, "set.zip", DIGEST, policy=QUICK)
    (cache / ".set.zip.lock").unlink()
    (cache / ".set.zip.lock").mkdir()  # cannot be opened for writing, not even by root
    assert cached(server.url, "set.zip", DIGEST) == path == cached(server.url, "set.zip")


def pauses_of(server: Server, dest: Path, answers: list[tuple[int, str]]) -> list[float]:
    """The pauses of a download that gets these codes, with these Retry-After, before its file."""
    slept: list[float] = []

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number > len(answers):
            return server.whole(to, number)
        code, asked = answers[number - 1]
        server.head(to, code, Content_Length=0, **({"Retry_After": asked} if asked else {}))

    server.answer = answer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sg3flow.transfers.time.sleep", slept.append)
        policy = RetryPolicy(connect_sec=2, read_sec=0.5, pause_sec=0.25, max_pause_sec=30)
        download(server.url, dest, policy=policy)
    return slept


def test_a_busy_server_says_how_long_to_wait(server: Server, tmp_path: Path) -> None:
    later = email.utils.formatdate(time.time() + 3600, usegmt=True)
    answers = [(429, "7"), (503, "99999"), (503, later), (500, "7")]
    assert pauses_of(server, tmp_path / "set.zip", answers) == [7, 30, 30, 7]


def test_without_a_word_of_the_server_each_pause_doubles(server: Server, tmp_path: Path) -> None:
    earlier = email.utils.formatdate(0, usegmt=True)
    answers = [(502, ""), (504, "soon"), (408, earlier), (425, "0")]
    assert pauses_of(server, tmp_path / "set.zip", answers) == [0.25, 0.5, 1.0, 2.0]


def test_a_server_that_understates_the_length_is_found_out(server: Server, tmp_path: Path) -> None:
    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        server.head(to, 200, Content_Length=1000, ETag='"one"')
        to.wfile.write(CONTENT)

    server.answer = answer
    with pytest.raises(DataError, match="its SHA-256 is"):
        fetch(server, tmp_path / "set.zip", sha256=DIGEST)
    assert only(tmp_path) == []


def test_a_file_that_changes_without_a_version_is_taken_whole(
    server: Server, tmp_path: Path
) -> None:
    """Without ETag and date it may be another file: the download starts over."""
    other = CONTENT[::-1]

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        assert "Range" not in to.headers
        content = CONTENT if number == 1 else other
        server.head(to, 200, Content_Length=len(content))
        to.wfile.write(content[: 1_500_000 if number == 1 else None])

    server.answer = answer
    assert fetch(server, tmp_path / "set.zip") == hashlib.sha256(other).hexdigest()
    assert len(server.requests) == 2


def test_the_digest_of_a_resumed_file_counts_its_beginning(server: Server, tmp_path: Path) -> None:
    once = RetryPolicy(connect_sec=2, read_sec=0.5, tries=1, pause_sec=0.01)
    server.answer = lambda to, number: server.whole(to, number, cut=1_500_000 if number == 1 else 0)
    with pytest.raises(DataError):
        download(server.url, tmp_path / "set.zip", policy=once)
    server.answer = server.whole
    assert fetch(server, tmp_path / "set.zip", sha256=DIGEST) == DIGEST  # another process's part
    assert "Range" in server.requests[-1]


def test_a_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        paths.append(to.path)
        server.whole(to, number)

    server.answer = answer
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/set.zip"))
    address = "http://far.invalid/set.zip"
    assert download(address, tmp_path / "set.zip", policy=QUICK) == DIGEST
    assert paths == [address]


def test_a_server_that_trickles_is_given_up(server: Server, tmp_path: Path) -> None:
    """Each byte comes within the time limit of a read, and the file would never be there."""
    ended = threading.Event()
    hurried = RetryPolicy(2, 0.5, tries=2, pause_sec=0.01, stall_bytes_sec=1e6, stall_sec=0.2)

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        server.head(to, 200, Content_Length=len(CONTENT), ETag='"one"')
        for place in range(300):
            to.wfile.write(CONTENT[place : place + 1])
            if ended.wait(0.02):
                break

    server.answer = answer
    with pytest.raises(DataError, match=r"only \d+ bytes arrived in \d+ seconds"):
        download(server.url, tmp_path / "set.zip", policy=hurried)
    ended.set()
    assert len(server.requests) == 2
    server.answer = server.whole
    assert download(server.url, tmp_path / "set.zip", policy=hurried) == DIGEST


@pytest.mark.parametrize("etag", ['"one"', ""])
def test_with_a_digest_a_mirror_goes_on_where_another_broke_off(
    server: Server, cache: Path, etag: str
) -> None:
    """The mirrors name the file's version differently, or not at all: the digest decides."""
    server.etag = etag
    urls = [server.url + "?first", server.url + "?second", server.url + "?third"]

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            server.whole(to, number, cut=1_500_000)
        elif to.path.endswith("first"):
            server.head(to, 503, Content_Length=0)
        elif to.path.endswith("second"):
            server.head(to, 404, Content_Length=0)
        else:
            start = int(to.headers["Range"][6:-1])
            span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            rest = CONTENT[start:]
            server.head(to, 206, Content_Length=len(rest), ETag='"3"', Content_Range=span)
            to.wfile.write(rest)

    server.answer = answer
    path, url = cached_from(urls, "set.zip", DIGEST, policy=QUICK)
    assert path.read_bytes() == CONTENT and url == urls[2]
    assert int(server.requests[-1]["Range"][6:-1]) > 1_000_000
    assert only(cache) == [".set.zip.lock", "set.zip", "set.zip.json"]


def test_pieces_that_do_not_fit_are_fetched_again_as_a_whole(server: Server, cache: Path) -> None:
    """The first mirror has another file of the same length."""
    other, urls = CONTENT[::-1], [server.url + "?first", server.url + "?second"]

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        is_first = to.path.endswith("first")
        server.content, server.etag = (other, '"a"') if is_first else (CONTENT, '"b"')
        if not is_first and "Range" in to.headers:
            del to.headers["If-Range"]
            to.headers["If-Range"] = '"b"'  # always answers with the rest
        server.whole(to, number, cut=(1_500_000 if number == 1 else 0) if is_first else None)

    server.answer = answer
    path, _ = cached_from(urls, "set.zip", DIGEST, policy=QUICK)
    assert path.read_bytes() == CONTENT
    assert "Range" in server.requests[-2] and "Range" not in server.requests[-1]


def test_without_a_digest_a_mirror_starts_anew(server: Server, cache: Path) -> None:
    urls = [server.url + "?first", server.url + "?second"]

    def answer(to: BaseHTTPRequestHandler, number: int) -> None:
        is_first = to.path.endswith("first")
        server.whole(to, number, cut=(1_500_000 if number == 1 else 0) if is_first else None)

    server.answer = answer
    path, url = cached_from(urls, "set.zip", policy=QUICK)
    assert path.read_bytes() == CONTENT and url == urls[1]
    assert "Range" not in server.requests[-1]


def test_no_mirror_is_tried_where_the_disk_is_full(server: Server, cache: Path) -> None:
    server.answer = lambda to, number: server.head(to, 200, Content_Length=1 << 35)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DiskFullError, match="are needed in"):
        patch.setattr("sg3flow.files.shutil.disk_usage", lambda path: _Usage())
        cached_from([server.url, server.url + "?2"], "set.zip", DIGEST, policy=QUICK)
    assert len(server.requests) == 1


class _Usage:
    free = 1 << 20


@pytest.mark.medium
def test_a_server_that_is_waited_for_is_named_once(server, tmp_path, capsys, monkeypatch):
    """It answers only after that; a second wait is not named again."""
    monkeypatch.setattr("sg3flow.progress._announced", set())

    def late(to: BaseHTTPRequestHandler, number: int) -> None:
        wait_until(lambda: "127.0.0.1" in progress._announced)
        server.whole(to, number, cut=None if number > 1 else 1000)

    server.answer = late
    download(server.url, tmp_path / "set.zip", policy=RetryPolicy(tries=2, pause_sec=0.01))
    said = capsys.readouterr().err.splitlines()
    assert said.count("waiting for 127.0.0.1") == 1
    [retry] = [line for line in said if line.endswith("; trying again at once")]
    assert retry.startswith("127.0.0.1: ")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
