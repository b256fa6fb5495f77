"""Durable files and locks: nothing half-written ever stands under a final name.

Every output is written under a temporary name beside its target, flushed to the disk, and renamed.
Locks end with the process that holds them, however that ends. Files that several processes read at
once are read by offset.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sg3flow.errors import DataError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"(^|/)\.([^/]+)\.[0-9a-f]{8}\.(?:tmp|old)(?=/|$)")  # of `_beside`
_STALE_SEC = 24 * 3600
_SYNC_THREADS = 8


class DiskFullError(DataError):
    """A disk has too little free space; the file itself may be right."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of ``path`` when the block ends without an error.

    Raises:
        OSError: from the block or the disk; ``path`` is then as it was, and nothing is left beside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    work = _beside(path, "tmp")
    try:
        with work.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(work, path)
    except BaseException:
        with suppress(FileNotFoundError):
            work.unlink()
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of ``path`` when the block ends well.

    An existing ``path`` is removed only after the new one is complete; whether it may be removed is
    the caller's question.

    Raises:
        OSError: from the block or the disk; ``path`` is then as it was, and nothing is left beside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    work, old = _beside(path, "tmp"), _beside(path, "old")
    work.mkdir()
    try:
        yield work
        _sync_tree(work)
        if path.exists():
            os.replace(path, old)
        os.replace(work, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        if path.exists():  # else the old one is all there is
            shutil.rmtree(old, ignore_errors=True)
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step."""
    with atomic_write(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace ``path`` by ``content`` (UTF-8) in one step."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Replace ``path`` by ``content`` as indented JSON in one step; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class StreamDigest:
    """The SHA-256 of a file, computed while it is written from its first byte on."""

    def __init__(self) -> None:
        self._hash, self._length = hashlib.sha256(), 0

    def update(self, chunk: bytes) -> None:
        """Add bytes that follow those added before."""
        self._hash.update(chunk)
        self._length += len(chunk)

    def restart(self, stream: BinaryIO, length: int) -> None:
        """Add the first ``length`` bytes of a file, unless exactly these were added already."""
        if length == self._length:
            return
        self._hash, self._length = hashlib.sha256(), 0
        stream.seek(0)
        while self._length < length and (chunk := stream.read(_CHUNK_BYTES)):
            self.update(chunk[: length - self._length])

    def of(self, path: Path) -> str:
        """The digest of the whole file; reads only what was not added while it was written."""
        with path.open("rb") as stream:
            self.restart(stream, path.stat().st_size)
        return self._hash.hexdigest()


def check_size(size: int, max_bytes: int) -> None:
    """Raise DataError if a file is larger than allowed."""
    if size > max_bytes:
        raise DataError(f"the file has {size:,} bytes or more; at most {max_bytes:,} are accepted")


def check_room(folder: Path, needed: int) -> None:
    """Raise DiskFullError if the disk of ``folder`` has less than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(
            f"{needed:,} bytes are needed in {folder}, {free:,} are free; "
            "free some or choose another place"
        )


def copy_file(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target`` in one step."""
    with source.open("rb") as reader, atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)


def link_or_copy(source: Path, target: Path) -> None:
    """Give the content of ``source`` the name ``target``, too, in one step.

    A hard link: it takes no space, and both names show a change in place. So ``source`` must be a
    file that its writers replace as a whole, as everything in this module does. Where the disk has
    no hard links, on another disk, or for a file of another user, the content is copied.

    Raises:
        OSError: there is no ``source``, or ``target`` cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    work = _beside(target, "tmp")
    try:
        os.link(source.resolve(), work)  # a symbolic link would be linked itself
        os.replace(work, target)
    except OSError:
        copy_file(source, target)
    finally:
        # Of two names of one file, a replacement does nothing and leaves both.
        with suppress(OSError):
            work.unlink(missing_ok=True)


class PositionFile:
    """A file read by offset (``os.pread``), which may be pickled, forked and shared.

    Reads share no file position and take no lock; every process opens the file itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = _stamp(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        self._handle: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}  # a handle is not valid in another process

    def read(self, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes from ``offset``; fewer at the end of the file.

        Raises:
            DataError: the file was changed or replaced since it was opened first.
        """
        if self._handle is None:
            self._handle = self._open()
        pieces = []
        while size > 0:  # one call reads at most 2 GiB, on some network file systems less
            piece = os.pread(self._handle, size, offset)
            if not piece:
                break
            pieces.append(piece)
            size, offset = size - len(piece), offset + len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _open(self) -> int:
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from None
        if _stamp(handle) != self._stamp:
            os.close(handle)
            raise DataError(f"{self.path} was changed while in use; start again")
        weakref.finalize(self, os.close, handle)
        return handle


class Scratch:
    """A temporary file that is removed with the object, or when the process ends.

    Copies of the object in other processes do not remove it.
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="sg3flow-")
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, _remove_own, self.path, os.getpid())


def _remove_own(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked copy must not remove the file of its parent
        with suppress(OSError):
            path.unlink()


def _stamp(file: Path | int) -> tuple[int, int]:
    """Size and modification time, which change when a file is changed or replaced."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def file_lock(path: Path) -> "BaseFileLock":
    """The lock that processes share through the file ``path``; the caller acquires it.

    The kernel releases it when its process ends. A process that is forked meanwhile, as those that
    read images are, does not keep it. A disk without locks gives an OSError: a lock that is a mere
    file would outlive a killed process.
    """
    from filelock import FileLock  # here: processes that only read images need not load it

    return FileLock(path, thread_local=False, fallback_to_soft=False)


def try_lock(lock: "BaseFileLock") -> bool:
    """Acquire ``lock`` if no other process holds it, without waiting; whether it is ours now.

    Raises:
        OSError: its file cannot be written, or the disk has no locks.
    """
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def try_lock_open_file(handle: int) -> bool:
    """As ``try_lock``, on a file that the caller opened and works on; its close ends the lock."""
    from filelock import lock_descriptor

    return lock_descriptor(handle, blocking=False)


def _beside(path: Path, suffix: str) -> Path:
    # A random part, not a fixed name: two processes may write the same file at once.
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.{suffix}")


def final_path(path: str) -> str:
    """``path`` with the names that its files will have: for messages about temporary ones."""
    return _TEMPORARY.sub(r"\1\2", path)


def _remove_stale(path: Path) -> None:
    """Remove what a process that was killed left beside ``path`` more than a day ago."""
    ours = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}[.](tmp|old)")
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in [entry for entry in entries if ours.fullmatch(entry.name)]:
            # The time of change, not of writing: a rename sets it too.
            age = time.time() - entry.stat(follow_symlinks=False).st_ctime
            # Without the target, ".old" may be the only copy of what stood there.
            if age > _STALE_SEC and (path.exists() or entry.name.endswith(".tmp")):
                _remove(Path(entry.path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(root: Path) -> None:
    """Bring every file and folder below ``root`` to the disk."""
    folders, files = [], []
    for folder, _, names in os.walk(root):
        folders.append(Path(folder))
        files += [path for name in names if not (path := Path(folder, name)).is_symlink()]
    # At once: a file system commits many waiting files together.
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(_sync_file, files):
            pass
    for path in reversed(folders):
        _sync_folder(path)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make names in a folder durable, where folders can be synced."""
    with suppress(OSError):
        _sync_file(folder)
