"""One download over HTTP: a part file that later attempts continue, retries, a stall timeout."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util import Retry

from sg3flow.addresses import address_mark, shown_url, without_secrets
from sg3flow.errors import DataError
from sg3flow.files import StreamDigest, check_room, check_size, write_json
from sg3flow.progress import progress, waiting

_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20
_PAGE_START = 512  # bytes by which a web page is recognized
_RETRIED_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,  # while the body is read
)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to try again."""

    connect_sec: float = 10.0
    read_sec: float = 60.0
    tries: int = 5  # in a row without progress
    pause_sec: float = 1.0  # before the second attempt; doubles each time
    max_pause_sec: float = 120.0  # also when a busy server asks for a longer pause
    stall_bytes_sec: float = 1024.0  # a lower speed over stall_sec is a stall
    stall_sec: float = 30.0

    def retries(self) -> Retry:
        """Counts the attempts without progress, and gives the pause after each.

        A transfer increments it itself, because urllib3 retries a request only up to its headers:
        that does not resume a part file, does not count progress, and reads the whole body of a
        refused answer, however long it is.
        """
        return Retry(
            total=self.tries - 1,
            backoff_factor=self.pause_sec,
            backoff_max=self.max_pause_sec,
            retry_after_max=int(self.max_pause_sec),
            status_forcelist=_RETRIED_STATUS,
        )


class TransferError(Exception):
    """The transfer broke off; another attempt may resume it, after at least ``wait_sec``."""

    def __init__(self, message: str, wait_sec: float = 0.0) -> None:
        super().__init__(message)
        self.wait_sec = wait_sec


class StalledError(TransferError):
    """The server sends so slowly that the transfer would never end."""


class StallTimeout:
    """Watches the speed of a transfer over periods of ``stall_sec``."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy, self.start, self.received = policy, time.monotonic(), 0

    def count(self, received: int) -> None:
        """Count received bytes.

        Raises:
            StalledError: the transfer is too slow.
        """
        self.received += received
        passed = time.monotonic() - self.start
        if passed < self.policy.stall_sec:
            return
        if self.received < passed * self.policy.stall_bytes_sec:
            raise StalledError(f"only {self.received:,} bytes arrived in {passed:.0f} seconds")
        self.start, self.received = time.monotonic(), 0


@dataclass(frozen=True)
class Version:
    """Identifies the bytes that a part file has a piece of."""

    address: str  # digest of the address: the address itself may hold a password
    etag: str
    last_modified: str
    total: int | None  # bytes of the whole file; None: the server does not say
    # Compressed by the server: a Range would not count the bytes of the part file.
    is_encoded: bool

    def condition(self) -> str:
        """The If-Range value that names this version, or an empty string."""
        # A weak ETag stands for equal content, not for equal bytes (RFC 9110, Sec. 13.1.5).
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class Transfer:
    """The download of ``url`` into ``part``; the file ``note`` holds its version.

    Attributes:
        is_checked: the caller knows the digest, so a part from any address can be continued.
        is_patched: the file was assembled from pieces; if it is wrong, one of them may be.
    """

    def __init__(
        self, url: str, part: Path, max_bytes: int, policy: RetryPolicy, *, is_checked: bool = False
    ) -> None:
        self.url, self.part, self.max_bytes, self.policy = url, part, max_bytes, policy
        self.is_checked, self.is_patched = is_checked, False
        self.note = part.with_name(part.name + ".json")
        self.digest = StreamDigest()

    def run(self, stream: BinaryIO) -> None:
        """Fill the part file, opened as ``stream`` for reading and writing.

        Raises:
            DataError: the server refuses, sends a web page, or more than allowed.
            TransferError: the download is incomplete; the part file stays for the next attempt.
        """
        furthest, retries = 0, self.policy.retries()
        while True:
            try:
                return self._attempt(stream)
            except requests.exceptions.SSLError as error:
                raise DataError(f"no secure connection: {_reason(error)}") from None
            except (*_RETRIED_ERRORS, TransferError) as error:
                stream.flush()
                is_further = _size(stream) > furthest and not isinstance(error, StalledError)
                furthest = max(furthest, _size(stream))
                retries = self.policy.retries() if is_further else _counted(retries, error)
                asked_sec, failure = getattr(error, "wait_sec", 0.0), error
            except (requests.RequestException, ValueError) as error:
                raise DataError(f"the address cannot be used: {_reason(error)}") from None
            pause_sec = max(self.policy.pause_sec, retries.get_backoff_time(), asked_sec)
            self._say_retry(failure, pause_sec)
            time.sleep(pause_sec)

    def _say_retry(self, failure: Exception, pause_sec: float) -> None:
        seconds = f"in {pause_sec:.0f} s" if pause_sec >= 1 else "at once"
        said = f"{self._host()}: {_reason(failure)}; trying again {seconds}"
        print(said, file=sys.stderr, flush=True)

    def _host(self) -> str:
        return urlsplit(self.url).hostname or shown_url(self.url)

    def can_continue(self) -> bool:
        """Whether a later attempt can continue the part file."""
        version = self._noted_version()
        has_start = self.part.is_file() and self.part.stat().st_size > 0
        return has_start and version is not None and self._is_continuable(version)

    def discard(self) -> None:
        """Remove the part file and its note."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def forget(self, stream: BinaryIO) -> None:
        """Empty the part file, so that the next ``run`` starts at the first byte."""
        stream.truncate(0)
        self.note.unlink(missing_ok=True)

    def _attempt(self, stream: BinaryIO) -> None:
        done = _size(stream)
        version = self._version_to_continue(done)
        headers = {"Accept-Encoding": "identity"}  # so that Content-Length counts our bytes
        if version is None:
            done = 0
        else:
            self.is_patched = True
            if done == version.total:
                return  # complete: the process ended before the rename
            headers |= {"Range": f"bytes={done}-"}
            if self._is_own(version) and version.condition():
                headers |= {"If-Range": version.condition()}
        timeout = self.policy.connect_sec, self.policy.read_sec
        with waiting(self._host()) as arrived:
            answer = requests.get(self.url, stream=True, timeout=timeout, headers=headers)
            with answer as response:
                self._receive(response, stream, version, done, arrived)

    def _version_to_continue(self, done: int) -> Version | None:
        """The version that the part file is the first piece of; None: start at the first byte."""
        version = self._noted_version()
        if version is None or not 0 < done <= (version.total or done):
            return None
        is_same_file = self._is_own(version) or self.is_checked
        return version if is_same_file and self._is_continuable(version) else None

    def _is_continuable(self, version: Version) -> bool:
        return not version.is_encoded and bool(self.is_checked or version.condition())

    def _receive(
        self,
        response: requests.Response,
        stream: BinaryIO,
        version: Version | None,
        done: int,
        arrived: Callable[[], None],
    ) -> None:
        self._check_status(response)
        if response.status_code == 206:
            if version is None or not self._continues(response, version, done):
                self.note.unlink(missing_ok=True)
                raise TransferError("the server sent another part than requested")
            if not self._is_own(version):
                version = replace(self._version_of(response), total=version.total)
                write_json(self.note, asdict(version))
        else:
            done = 0
            version = self._version_of(response)
            stream.truncate(0)
            write_json(self.note, asdict(version))
        assert version is not None
        self._check_room(version.total, done)
        stream.seek(done)
        self._copy(response, stream, version.total, done, arrived)

    def _check_status(self, response: requests.Response) -> None:
        code = response.status_code
        if code == 416:
            self.note.unlink(missing_ok=True)
            raise TransferError("the server has no such part of the file")
        if self.policy.retries().is_retry("GET", code):
            raise TransferError(
                f"the server answers {code} {response.reason}", self._asked(response)
            )
        if code not in (200, 206):
            raise DataError(f"the server answers {code} {response.reason}")
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise DataError("the server sends a web page instead of the file")

    def _asked(self, response: requests.Response) -> float:
        """Seconds that a busy server asks to wait, limited by the policy."""
        try:
            return self.policy.retries().get_retry_after(response.raw) or 0.0
        except urllib3.exceptions.InvalidHeader:
            return 0.0

    def _version_of(self, response: requests.Response) -> Version:
        headers = response.headers
        length = headers.get("Content-Length", "")
        is_encoded = _is_encoded(response)
        total = None if is_encoded else _number(length)
        etag, last_modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
        return Version(address_mark(self.url), etag, last_modified, total, is_encoded)

    def _check_room(self, total: int | None, done: int) -> None:
        check_size(total or 0, self.max_bytes)
        check_room(self.part.parent, (total or 0) - done)

    def _copy(
        self,
        response: requests.Response,
        stream: BinaryIO,
        total: int | None,
        done: int,
        arrived: Callable[[], None],
    ) -> None:
        label = f"downloading {self.part.name.removesuffix('.part')} (MiB)"
        stream.flush()
        self.digest.restart(stream, done)
        stream.seek(done)
        before = done // _MIB
        bar = progress(label, -(-total // _MIB), before) if total else nullcontext(_no_progress)
        start = b""
        with bar as advance:
            for chunk in self._chunks(response):
                arrived()
                if done == len(start) < _PAGE_START:  # the first bytes, in any number of chunks
                    start += chunk[:_PAGE_START]
                    if _is_page(start):
                        stream.truncate(0)
                        raise DataError("the server sends a web page instead of the file")
                stream.write(chunk)
                self.digest.update(chunk)
                advance((done + len(chunk)) // _MIB - done // _MIB)
                done += len(chunk)
                if done > self.max_bytes:
                    stream.truncate(0)
                check_size(done, self.max_bytes)
        stream.flush()
        if total is not None and done != total:
            raise TransferError(f"only {done:,} of {total:,} bytes arrived")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The bytes as they arrive: a slow server may never fill a whole chunk."""
        stall = StallTimeout(self.policy)
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            yield chunk
            stall.count(len(chunk))

    def _noted_version(self) -> Version | None:
        with suppress(OSError, ValueError, TypeError):
            content: Any = json.loads(self.note.read_text(encoding="utf-8"))
            return Version(**content)
        return None

    def _is_own(self, version: Version) -> bool:
        """Whether a version is of this address, so that its ETag and date can be compared."""
        return version.address == address_mark(self.url)

    def _continues(self, response: requests.Response, version: Version, done: int) -> bool:
        """Whether the answer starts where the part file ends, in a file of the same size."""
        etag = response.headers.get("ETag")
        if _is_encoded(response):
            return False
        if self._is_own(version) and etag and version.etag and etag != version.etag:
            return False
        span, _, total = response.headers.get("Content-Range", "").partition("/")
        is_same_size = total == "*" or version.total in (None, _number(total))
        return span.startswith(f"bytes {done}-") and is_same_size


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _is_page(start: bytes) -> bool:
    return start[:_PAGE_START].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _no_progress(steps: int) -> None:
    """Shows nothing: the length is not known."""


def _counted(retries: Retry, error: Exception) -> Retry:
    """``retries`` after one more attempt without progress.

    Raises:
        TransferError: it was the last one.
    """
    try:
        return retries.increment("GET", error=error)
    except urllib3.exceptions.MaxRetryError:
        raise TransferError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """The innermost cause, shortened: requests nests its errors three deep."""
    cause: Any = error
    while inner := [a for a in (getattr(cause, "reason", None), *cause.args) if _is_error(a)]:
        cause = inner[-1]
    text = " ".join(str(cause).split()) or type(cause).__name__
    return without_secrets(text)[:200]


def _is_error(value: object) -> bool:
    return isinstance(value, Exception)
