"""Read files of a folder or a zip file, from any process and thread without locks.

The messages of errors while reading one file are stored in manifests.
"""

import os
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Any, Protocol

from sg3flow.errors import DataError


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


_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_ENCRYPTED = 0x1
_MAX_BYTES = 1 << 30  # no image is larger; files are read whole into memory
# Every exception that zipfile raises for damaged files.
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    LZMAError,
    EOFError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class Storage(Protocol):
    """Files below one root, named by their POSIX path relative to it."""

    path: Path
    names: list[str]
    problems: dict[str, str]  # folders that could not be listed, with the reason

    def read(self, name: str) -> bytes:
        """Read one file; DataError if it cannot be read completely."""

    def size(self, name: str) -> int:
        """Length of one file in bytes; 0: unknown."""


def open_storage(path: Path) -> Storage:
    """Open a zip file or a folder.

    Raises:
        DataError: ``path`` is neither, or cannot be listed completely.
    """
    check_exists(path)
    storage: Storage = FolderStorage(path) if path.is_dir() else ZipStorage(path)
    for name, reason in storage.problems.items():
        raise DataError(f"{path / name}: {reason}")
    return storage


def check_exists(path: Path) -> None:
    """Raise DataError if ``path`` is neither a file nor a folder, or is not readable."""
    if not os.path.exists(path):  # path.exists() raises if a parent folder is not accessible
        raise DataError(
            f"there is no file or folder {path}, or a folder above it is not accessible"
        )
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise DataError(f"{path} is not readable; change its permissions, or run as its owner")


def is_hidden(name: str) -> bool:
    """Whether a file is hidden or a system file (``.DS_Store``, ``__MACOSX/``), not data."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


class FolderStorage:
    """The files below a folder; links are followed, except in a cycle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self.names = sorted(_walk(path, self.problems))

    def read(self, name: str) -> bytes:
        try:
            status = (self.path / name).stat()
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
                raise DataError(f"{self.path / name} is not a plain file")
            check_entry_size(f"{self.path / name}", status.st_size)
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read: {error.strerror}") from None

    def size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return 0


def _walk(root: Path, problems: dict[str, str]) -> list[str]:
    names: list[str] = []
    waiting = [("", frozenset[tuple[int, int]]())]
    while waiting:
        base, above = waiting.pop()
        try:
            status = (root / base).stat()
            mark = (status.st_dev, status.st_ino)
            if mark in above:
                problems[base.rstrip("/")] = "a link to a folder above it; remove the link"
                continue
            with os.scandir(root / base) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        waiting.append((f"{base}{entry.name}/", above | {mark}))
                    else:
                        names.append(base + entry.name)
        except OSError as error:
            problems[base.rstrip("/")] = f"cannot be listed: {error.strerror}"
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir() and not (entry.is_symlink() and is_hidden(entry.name))
    except OSError:  # a link to itself; reading it reports the error
        return False


def check_entry_size(what: str, size: int) -> None:
    """Raise DataError if a file is larger than any image can be."""
    if size > _MAX_BYTES:
        raise DataError(f"{what} has {size:,} bytes; at most {_MAX_BYTES:,} are read")


@dataclass(frozen=True, slots=True)
class _Entry:
    header_offset: int
    stored_size: int
    size: int
    crc: int
    method: int


class ZipStorage:
    """The entries of a zip file; its directory is read once, on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self._entries = _zip_entries(path)
        self.names = sorted(self._entries)
        self._file = PositionFile(path)

    def read(self, name: str) -> bytes:
        entry = self._entries[name]
        check_entry_size(f"entry {name} of {self.path}", max(entry.size, entry.stored_size))
        content = self._content(name, entry)
        if len(content) != entry.size or zlib.crc32(content) != entry.crc:
            raise DataError(f"entry {name} of {self.path} is damaged (CRC-32 does not match)")
        return content

    def size(self, name: str) -> int:
        return self._entries[name].size

    def _content(self, name: str, entry: _Entry) -> bytes:
        header = self._file.read(_LOCAL_HEADER.size, entry.header_offset)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise DataError(f"entry {name} of {self.path} is damaged (its header is not there)")
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        stored = self._file.read(entry.stored_size, start)
        if entry.method == zipfile.ZIP_STORED:
            return stored
        try:
            # One byte more than declared is enough to detect a wrong size.
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, entry.size + 1)
        except zlib.error as error:
            raise DataError(f"entry {name} of {self.path} is damaged ({error})") from None


def _zip_entries(path: Path) -> dict[str, _Entry]:
    try:
        length = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except ZIP_DAMAGE as error:
        raise DataError(f"{path} is not a complete zip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    entries: dict[str, _Entry] = {}
    for info in infos:
        name = info.filename
        if name in entries:
            raise DataError(f"{path} holds two entries named {name}; create it again")
        if info.flag_bits & _ENCRYPTED:
            raise DataError(f"entry {name} of {path} is encrypted; unpack it first")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"entry {name} of {path} is compressed with method {info.compress_type}; "
                "only stored and deflated entries can be read"
            )
        if not 0 <= info.header_offset <= length - info.compress_size:
            raise DataError(f"{path} is not a complete zip file (entry {name} lies outside of it)")
        entries[name] = _Entry(
            info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type
        )
    return entries
