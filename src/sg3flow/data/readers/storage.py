"""Read files of a folder or a zip file, from any process and thread without locks.

The messages of errors while reading one file are stored in manifests.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Protocol

from sg3flow.errors import DataError
from sg3flow.files import PositionFile

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_ENCRYPTED = 0x1
_ZIP_LINK = "a link or special file; create the archive again with regular files"
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
    problems: dict[str, str]  # folders and links that could not be read, with the reason

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


def check_has_rows(names: list[str], path: Path) -> None:
    """Raise DataError if a source of rows has none."""
    if not names:
        raise DataError(f"{path} holds no images: it has no rows; fetch or export it again")


def check_entry_size(what: str, size: int) -> None:
    """Raise DataError if a file is larger than any image can be."""
    if size > _MAX_BYTES:
        raise DataError(f"{what} has {size:,} bytes; at most {_MAX_BYTES:,} are read")


@dataclass(frozen=True)
class Limits:
    """How much an archive may contain.

    Only fetching, which writes every file, limits the entries and their total.
    """

    entries: int = 1_000_000
    total_bytes: int = 128 << 30
    ratio: int = 100  # maximum of unpacked bytes per byte of the archive
    free_bytes: int = 256 << 20  # the ratio applies beyond this; small drawings compress very well

    def unpacked_bytes(self, size: int) -> int:
        """Maximum of the unpacked bytes of an archive of ``size`` bytes."""
        return self.free_bytes + self.ratio * size


_ODD_PART = re.compile(r"(^|/)\.{0,2}(/|$)")  # empty, "." or ".."


def plain_name(name: str) -> str:
    """A path without empty parts and "." (``./a//b`` is ``a/b``)."""
    return PurePosixPath(name).as_posix() if _ODD_PART.search(name) else name


class EntryNames:
    """The names of the files in an archive; every name may occur once.

    Fetching and packing share this rule, and so find the same files in an archive.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers: dict[str, int] = {}
        self._folders: set[str] = set()

    def add(self, name: str, number: int) -> str:
        """Add the name of the entry with this number; returns it without empty parts and ".".

        Raises:
            DataError: the name leads out of the archive, or is that of an earlier file or folder.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(
                f"{self._path} has an entry that leads out of its folder: {name[:80]!r}"
            )
        name = plain_name(name)
        earlier = self._numbers.setdefault(name, number)
        if earlier != number:
            raise DataError(
                f"{self._path} holds the entry '{name[:80]}' twice (entries {earlier} and "
                f"{number}); create it again"
            )
        self._add_folders(name)
        return name

    def _add_folders(self, name: str) -> None:
        if name in self._folders:
            raise self._is_both(name)
        folder = name.rpartition("/")[0]
        while folder and folder not in self._folders:
            if folder in self._numbers:
                raise self._is_both(folder)
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]

    def _is_both(self, name: str) -> DataError:
        return DataError(
            f"'{name[:80]}' is both a file and a folder in {self._path} (entry "
            f"{self._numbers[name]} is the file); create it again"
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    header_offset: int
    stored_size: int
    size: int
    crc: int
    method: int


class ZipStorage:
    """The entries of a zip file; its directory is read once, on opening.

    Raises:
        DataError: the file is damaged, holds one name twice, or is a zip bomb.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        infos = _zip_infos(path, limits or Limits())
        links = {name for name, info in infos.items() if not is_plain_file(info)}
        self.problems = {name: _ZIP_LINK for name in sorted(links) if not is_hidden(name)}
        self._entries = {
            name: _checked_entry(name, info, path)
            for name, info in infos.items()
            if name not in links
        }
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


def _zip_infos(path: Path, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """The entries of a zip file by name, without folders."""
    names = EntryNames(path)
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            infos = {
                names.add(info.filename, number): info
                for number, info in enumerate(archive.infolist(), 1)
                if not info.is_dir()
            }
    except ZIP_DAMAGE as error:
        raise DataError(f"{path} is not a complete zip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for name, info in infos.items():
        if not 0 <= info.header_offset <= size - info.compress_size:
            raise DataError(f"{path} is not a complete zip file (entry {name} lies outside of it)")
    check_zip_sizes(infos.values(), path, limits)
    return infos


def check_zip_sizes(infos: Collection[zipfile.ZipInfo], path: Path, limits: Limits) -> None:
    """Refuse a zip bomb: entries that are compressed too well, or that share bytes.

    Raises:
        DataError: the zip file ``path`` with the entries ``infos`` is one.
    """
    size = path.stat().st_size
    unpacked = sum(info.file_size for info in infos)
    if unpacked > limits.unpacked_bytes(size):
        raise DataError(
            f"{path} has {size:,} bytes and declares {unpacked:,} unpacked, more than "
            f"{limits.ratio} times as many; refused as a zip bomb"
        )
    if sum(info.compress_size for info in infos) > size:
        raise DataError(f"the entries of {path} overlap; refused as a zip bomb")


def is_plain_file(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is neither a link nor a special file."""
    return stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)


def _checked_entry(name: str, info: zipfile.ZipInfo, path: Path) -> _Entry:
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"entry {name} of {path} is encrypted; unpack it first")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"entry {name} of {path} is compressed with method {info.compress_type}; "
            "only stored and deflated entries can be read; fetch unpacks others"
        )
    return _Entry(
        info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type
    )
