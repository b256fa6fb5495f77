"""How long a transfer may take: timeouts, retries with growing pauses, and a least speed."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3
from urllib3.util import Retry

from sg3flow.addresses import address_mark, without_secrets
from sg3flow.errors import DataError
from sg3flow.files import write_json
from sg3flow.progress import progress

_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server, and how often to try again."""

    connect_sec: float = 10.0
    read_sec: float = 60.0
    tries: int = 5  # in a row without progress
    pause_sec: float = 1.0  # before the second try; doubles each time
    max_pause_sec: float = 120.0  # also where a busy server asks for a longer pause
    stall_bytes_sec: float = 1024.0  # fewer bytes per second than this, over stall_sec, are a stall
    stall_sec: float = 30.0

    def retries(self) -> Retry:
        """Counts the tries without progress, and knows the pause after each.

        A transfer increments it itself, for urllib3 retries a request only up to its headers: that
        does not resume a part file, counts no progress, and reads the body of a refused answer to
        its end, however long that is.
        """
        return Retry(
            total=self.tries - 1,
            backoff_factor=self.pause_sec,
            backoff_max=self.max_pause_sec,
            retry_after_max=int(self.max_pause_sec),
            status_forcelist=_RETRIED_STATUS,
        )


class TransferError(Exception):
    """The transfer broke off, and another try may resume it, after ``wait_sec`` at least."""

    def __init__(self, message: str, wait_sec: float = 0.0) -> None:
        super().__init__(message)
        self.wait_sec = wait_sec


class StalledError(TransferError):
    """The server sends, but so little that the transfer would never end."""


class StallTimeout:
    """Watches the speed of a transfer, from one stretch of ``stall_sec`` to the next."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy, self.start, self.received = policy, time.monotonic(), 0

    def count(self, received: int) -> None:
        """Count received bytes.

        Raises:
            StalledError: they are too few for the time they took.
        """
        self.received += received
        passed = time.monotonic() - self.start
        if passed < self.policy.stall_sec:
            return
        if self.received < passed * self.policy.stall_bytes_sec:
            raise StalledError(f"only {self.received:,} bytes came in {passed:.0f} seconds")
        self.start, self.received = time.monotonic(), 0


_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20
_PAGE_START = 512  # bytes in which a web page shows itself
_RETRIED_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,  # of what is read behind the headers
)


@dataclass(frozen=True)
class Version:
    """Which bytes a part file holds pieces of."""

    address: str  # mark of where it comes from: the address itself may hold a password
    etag: str
    last_modified: str
    total: int | None  # bytes of the whole file; None: the server does not say
    # On its way packed by the server: the part file holds other bytes than a Range would count.
    is_encoded: bool

    def condition(self) -> str:
        """The If-Range value that names this version, or an empty string."""
        # A weak ETag names equal meaning, not equal bytes (RFC 9110, Sec. 13.1.5).
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class DiskFullError(DataError):
    """A disk has too little room: the file itself may be right."""


class StreamDigest:
    """The SHA-256 of a file, made while it is written from its beginning."""

    def __init__(self) -> None:
        self._hash, self._length = hashlib.sha256(), 0

    def update(self, chunk: bytes) -> None:
        """Take what was written behind all that was taken before."""
        self._hash.update(chunk)
        self._length += len(chunk)

    def restart(self, stream: BinaryIO, length: int) -> None:
        """Take the first ``length`` bytes of a file, unless just these were taken already."""
        if length == self._length:
            return
        self._hash, self._length = hashlib.sha256(), 0
        stream.seek(0)
        while self._length < length and (chunk := stream.read(_CHUNK_BYTES)):
            self.update(chunk[: length - self._length])

    def of(self, path: Path) -> str:
        """The digest of the whole file, read again only where it was not taken while written."""
        with path.open("rb") as stream:
            self.restart(stream, path.stat().st_size)
        return self._hash.hexdigest()


class Transfer:
    """The way of one file from ``url`` into ``part``; ``note`` remembers the version.

    Attributes:
        is_checked: the caller knows the file's digest; a part of any address is continued then.
        is_patched: the file was put together of pieces; if it is wrong, one of them may be.
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
            DataError: the server refuses, sends a page instead of a file, or more than allowed.
            TransferError: it could not be completed; the part file stays for the next time.
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
                asked_sec = getattr(error, "wait_sec", 0.0)
            except (requests.RequestException, ValueError) as error:
                raise DataError(f"the address cannot be used: {_reason(error)}") from None
            time.sleep(max(self.policy.pause_sec, retries.get_backoff_time(), asked_sec))

    def can_continue(self) -> bool:
        """Whether the part file holds a beginning that a later try may go on with."""
        version = self._noted_version()
        has_start = self.part.is_file() and self.part.stat().st_size > 0
        return has_start and version is not None and self._is_continuable(version)

    def discard(self) -> None:
        """Remove the part file and its note."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def forget(self, stream: BinaryIO) -> None:
        """Empty the part file, so that the next ``run`` starts from the beginning."""
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
                return  # the whole file came, and the process ended before it was renamed
            headers |= {"Range": f"bytes={done}-"}
            if self._is_own(version) and version.condition():
                headers |= {"If-Range": version.condition()}
        timeout = self.policy.connect_sec, self.policy.read_sec
        with requests.get(self.url, stream=True, timeout=timeout, headers=headers) as response:
            self._receive(response, stream, version, done)

    def _version_to_continue(self, done: int) -> Version | None:
        """The version of which the part file holds a beginning to go on with; None: start anew."""
        version = self._noted_version()
        if version is None or not 0 < done <= (version.total or done):
            return None
        is_same_file = self._is_own(version) or self.is_checked
        return version if is_same_file and self._is_continuable(version) else None

    def _is_continuable(self, version: Version) -> bool:
        return not version.is_encoded and bool(self.is_checked or version.condition())

    def _receive(
        self, response: requests.Response, stream: BinaryIO, version: Version | None, done: int
    ) -> None:
        self._check_status(response)
        if response.status_code == 206:
            if version is None or not self._continues(response, version, done):
                self.note.unlink(missing_ok=True)
                raise TransferError("the server sent another part than was asked for")
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
        self._copy(response, stream, version.total, done)

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
        """Seconds that a busy server asks to wait, as far as the policy allows them."""
        try:
            return self.policy.retries().get_retry_after(response.raw) or 0.0
        except urllib3.exceptions.InvalidHeader:
            return 0.0

    def _version_of(self, response: requests.Response) -> Version:
        headers = response.headers
        length = headers.get("Content-Length", "")
        is_encoded = _is_encoded(response)
        total = int(length) if length.isdigit() and not is_encoded else None
        etag, last_modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
        return Version(address_mark(self.url), etag, last_modified, total, is_encoded)

    def _check_room(self, total: int | None, done: int) -> None:
        check_size(total or 0, self.max_bytes)
        check_room(self.part.parent, (total or 0) - done)

    def _copy(
        self, response: requests.Response, stream: BinaryIO, total: int | None, done: int
    ) -> None:
        label = f"downloading {self.part.name.removesuffix('.part')} (MiB)"
        stream.flush()
        self.digest.restart(stream, done)
        stream.seek(done)
        bar = progress(label, -(-total // _MIB)) if total else nullcontext(_no_progress)
        start = b""
        with bar as advance:
            advance(done // _MIB)
            for chunk in self._chunks(response):
                if done == len(start) < _PAGE_START:  # from the beginning on, in whatever pieces
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
            raise TransferError(f"only {done:,} of {total:,} bytes came")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """What comes, as it comes: a whole chunk of a server that trickles may take for ever."""
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
        """Whether a version is one of this address, whose ETag and date mean something here."""
        return version.address == address_mark(self.url)

    def _continues(self, response: requests.Response, version: Version, done: int) -> bool:
        """Does the answer start where the part file ends, in a file of the same size?"""
        etag = response.headers.get("ETag")
        if _is_encoded(response):
            return False
        if self._is_own(version) and etag and version.etag and etag != version.etag:
            return False
        span, _, total = response.headers.get("Content-Range", "").partition("/")
        is_same_size = total == "*" or version.total in (None, _number(total))
        return span.startswith(f"bytes {done}-") and is_same_size


def check_size(size: int, max_bytes: int) -> None:
    """Raise DataError where a file is larger than allowed."""
    if size > max_bytes:
        raise DataError(f"the file has {size:,} bytes or more; at most {max_bytes:,} are accepted")


def check_room(folder: Path, needed: int) -> None:
    """Raise NoRoom where the disk of ``folder`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(
            f"{needed:,} bytes are needed in {folder}, {free:,} are free; "
            "free some or choose another place"
        )


def _is_encoded(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity") != "identity"


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _is_page(start: bytes) -> bool:
    return start[:_PAGE_START].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _no_progress(steps: int) -> None:
    """Without a known length there is nothing to show."""


def _counted(retries: Retry, error: Exception) -> Retry:
    """``retries`` after one more try without progress; TransferError where it was the last."""
    try:
        return retries.increment("GET", error=error)
    except urllib3.exceptions.MaxRetryError:
        raise TransferError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """The innermost cause in few words: requests nests its errors three deep."""
    cause: Any = error
    while inner := [a for a in (getattr(cause, "reason", None), *cause.args) if _is_error(a)]:
        cause = inner[-1]
    text = " ".join(str(cause).split()) or type(cause).__name__
    return without_secrets(text)[:200]


def _is_error(value: object) -> bool:
    return isinstance(value, Exception)
