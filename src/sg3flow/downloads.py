"""Downloads: a file is complete and checked, or it is absent.

``download`` writes into ``NAME.part`` beside the target, continues an earlier attempt that broke
off, and renames the file only if its length and digest are right. ``cached`` keeps files that many
runs need in ``SG3FLOW_CACHE`` (``~/.cache/sg3flow`` by default).
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sg3flow.addresses import address_mark, local_path, shown_url, split_url
from sg3flow.errors import DataError
from sg3flow.files import (
    DiskFullError,
    check_room,
    check_size,
    file_lock,
    sha256_file,
    try_lock_open_file,
    write_json,
)
from sg3flow.settings import cache_folder
from sg3flow.transfers import (
    RetryPolicy,
    Transfer,
    TransferError,
)

MAX_BYTES = 64 << 30


def download(
    url: str,
    dest: Path,
    *,
    sha256: str | None = None,
    max_bytes: int = MAX_BYTES,
    policy: RetryPolicy | None = None,
) -> str:
    """Download ``url`` to ``dest``, replacing an existing file, and return its SHA-256.

    An attempt that broke off is continued if the server still has the same file. With ``sha256`` an
    attempt from another address of the file is continued too, and the download starts over if the
    pieces turn out not to be of one file. An error leaves ``dest`` as it was.

    Args:
        url: starts with https://, http:// or file://.
        sha256: expected hexadecimal digest; None: any content.
        max_bytes: maximum size of the file.
        policy: timeouts and retries; None: the defaults.

    Raises:
        DataError: the file is not available, is not the expected one, or is too large.
    """
    sha256 = checked_digest(sha256) if sha256 else None
    split_url(url)
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = dest.with_name(dest.name + ".part")
    transfer = Transfer(url, part, max_bytes, policy or RetryPolicy(), is_checked=bool(sha256))
    if dest.is_dir():
        raise DataError(f"cannot download to {dest}: it is a folder")
    with _own_part(part) as stream:
        try:
            _bring(url, stream, transfer)
            found = transfer.digest.of(part)
            if sha256 and found != sha256 and transfer.is_patched:
                transfer.forget(stream)
                _bring(url, stream, transfer)
                found = transfer.digest.of(part)
        except DiskFullError as error:
            raise DiskFullError(_failure(url, dest, sha256, str(error))) from None
        except (DataError, TransferError) as error:
            raise DataError(_failure(url, dest, sha256, str(error))) from None
        if sha256 and found != sha256:
            transfer.discard()
            raise DataError(_failure(url, dest, sha256, f"its SHA-256 is {found}"))
        os.replace(part, dest)
        transfer.note.unlink(missing_ok=True)
    return found


def cached(
    url: str,
    name: str,
    sha256: str | None = None,
    *,
    max_bytes: int = MAX_BYTES,
    policy: RetryPolicy | None = None,
) -> Path:
    """The file at ``url`` in the cache folder, downloaded if it is not there.

    A file that a user put there is accepted if its digest matches, or if no digest is known. If
    several processes need the same file at once, one of them downloads it.

    Args:
        name: file name in the cache folder.

    Raises:
        DataError: as ``download``.
    """
    path = cache_folder() / name
    sha256 = checked_digest(sha256) if sha256 else None
    if path.is_file() and _is_wanted(path, url, sha256):
        return path  # before the lock: a shared cache may be read-only
    with file_lock(path.with_name(f".{name}.lock")):
        if path.is_file() and _is_wanted(path, url, sha256):
            return path
        found = download(url, path, sha256=sha256, max_bytes=max_bytes, policy=policy)
        record = {"url": shown_url(url), "address": address_mark(url), "sha256": found}
        write_json(_record(path), record | {"proven": sha256 is not None})
    return path


def cached_from(
    urls: Sequence[str],
    name: str,
    sha256: str | None = None,
    *,
    policy: RetryPolicy | None = None,
) -> tuple[Path, str]:
    """As ``cached``, from the first of several URLs of one file that works.

    Without ``sha256`` the file must have the digest of an earlier download that was proven, from
    any of the URLs.

    Returns:
        The file, and the URL it came from.

    Raises:
        DataError: no URL works; the message gives the reason for each.
    """
    known = sha256 or next(filter(None, (recorded_digest(url, name) for url in urls)), None)
    record = _read_record(cache_folder() / name)
    # The URL of the file in the cache comes first, so that it is not downloaded again.
    last = [url for url in urls if record.get("address") == address_mark(url)]
    reasons = []
    for url in dict.fromkeys([*last, *urls]):
        try:
            return cached(url, name, known, policy=policy), url
        except DiskFullError:
            raise
        except DataError as error:
            reasons.append(str(error))
    raise DataError("; ".join(reasons))


@contextmanager
def proving(path: Path) -> Iterator[None]:
    """Use a file of the cache for the first time, which proves that it is the right one.

    A file that was downloaded without a known digest may be anything, for example the page of a
    proxy or an incomplete file. If the block ends without an error, its digest is the expected one
    from now on. If it ends with a DataError (other than DiskFullError), file and record are removed
    and the next attempt downloads it again. A file that is proven already, or that a user put
    there, stays as it is.
    """
    record = _read_record(path)
    is_open = bool(record) and record.get("proven") is not True
    try:
        yield
    except DiskFullError:
        raise
    except DataError:
        if is_open:
            path.unlink(missing_ok=True)
            _record(path).unlink(missing_ok=True)
        raise
    if is_open:
        with suppress(OSError):  # a read-only cache stays unproven
            write_json(_record(path), record | {"proven": True})


def recorded_digest(url: str, name: str) -> str | None:
    """The proven SHA-256 of the file ``name`` of the cache, if it came from ``url``."""
    record = _read_record(cache_folder() / name)
    is_ours = record.get("address") == address_mark(url) and record.get("proven") is True
    return _digest_of(record) if is_ours else None


def checked_digest(text: str) -> str:
    """A SHA-256 in lower case.

    Raises:
        DataError: it is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise DataError(f"a SHA-256 has 64 hexadecimal digits; found '{text}'")
    return text.strip().lower()


def _is_wanted(path: Path, url: str, sha256: str | None) -> bool:
    record = _read_record(path)
    if sha256 is None:
        if record and record.get("address") != address_mark(url):
            return False
        sha256 = _digest_of(record)
    return sha256 is None or sha256_file(path) == sha256


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_record(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(_record(path).read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _digest_of(record: dict[str, Any]) -> str | None:
    digest = record.get("sha256")
    return digest if isinstance(digest, str) else None


def _bring(url: str, stream: BinaryIO, transfer: Transfer) -> None:
    """Fill the part file; after an error it is removed if it cannot be continued later."""
    try:
        if split_url(url).scheme == "file":
            _copy_local(local_path(url), stream, transfer)
        else:
            transfer.run(stream)
        stream.flush()
        os.fsync(stream.fileno())
    except BaseException:
        if not transfer.can_continue():
            transfer.discard()
        raise


def _copy_local(source: Path, stream: BinaryIO, transfer: Transfer) -> None:
    if not source.is_file():
        raise DataError("the file does not exist")
    size = source.stat().st_size
    check_size(size, transfer.max_bytes)
    check_room(transfer.part.parent, size)
    stream.truncate(0)
    with source.open("rb") as reader:
        while chunk := reader.read(1 << 20):
            stream.write(chunk)
            transfer.digest.update(chunk)


@contextmanager
def _own_part(part: Path) -> Iterator[BinaryIO]:
    """Open the part file exclusively.

    Raises:
        DataError: another process has it open.
    """
    while True:
        # Not mode "a": the stream may have to start over.
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(handle, "r+b") as stream:
            if not try_lock_open_file(handle):
                raise DataError(f"another process is downloading {part}; wait for it")
            # Its former owner may have renamed the file between the open and the lock.
            if _same(handle, part):
                yield stream
                return


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _failure(url: str, dest: Path, sha256: str | None, reason: str) -> str:
    digest = f" (SHA-256 {sha256})" if sha256 else ""
    return (
        f"cannot download {dest.name}{digest} from {shown_url(url)}: {reason}; "
        f"try again later, or put the file at {dest} by hand"
    )
