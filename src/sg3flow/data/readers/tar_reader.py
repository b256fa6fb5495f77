"""The files of a tar archive, read by position like those of a zip file."""

import bz2
import errno
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from sg3flow.data.readers.storage import PositionFile, Scratch, check_entry_size
from sg3flow.errors import DataError
from sg3flow.files import check_room
from sg3flow.progress import progress

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# All that the readers of the standard library raise over damaged archives.
TAR_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20


def is_tar(path: PurePath) -> bool:
    """Whether a file's name says that it is a tar archive."""
    return path.name.lower().endswith(TAR_SUFFIXES)


class TarStorage:
    """The plain files of a tar archive; links and devices in it do not count.

    A compressed one has no positions: it is unpacked once, into a temporary file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        with damage_named(path):
            if path.suffix.lower() == ".tar":
                self._file = PositionFile(path)
            else:
                self._scratch = unpacked(path)  # kept: the file goes with the object
                self._file = PositionFile(self._scratch.path)
            self._places = _places(path, self._file.path)
        self.names = sorted(self._places)

    def read(self, name: str) -> bytes:
        offset, size = self._places[name]
        check_entry_size(f"entry {name} of {self.path}", size)
        content = self._file.read(size, offset)
        if len(content) != size:
            raise DataError(f"entry {name} of {self.path} is cut off")
        return content

    def size(self, name: str) -> int:
        return self._places[name][1]


def _places(path: Path, plain: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of every file by its name; a later entry of a name replaces it."""
    places: dict[str, tuple[int, int]] = {}
    with tarfile.open(plain, "r:") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not member.isreg() or name.startswith("/") or ".." in name.split("/"):
                continue
            if member.sparse is not None:
                raise DataError(f"entry {name} of {path} is sparse; pack it with plain tar")
            places[name] = (member.offset_data, member.size)
    return places


def unpacked(path: Path) -> Scratch:
    """A gzip, bzip2 or xz file, unpacked into a temporary file, chunk by chunk.

    Raises:
        DataError: the disk has too little room.
    """
    scratch, total = Scratch(), path.stat().st_size
    check_room(scratch.path.parent, total)
    with path.open("rb") as packed, scratch.path.open("wb") as writer:
        with progress(f"unpacking {path.name} (MiB)", -(-total // _MIB)) as advance:
            shown = 0
            with _opener(path)(packed) as reader:
                while chunk := reader.read(_CHUNK_BYTES):
                    check_room(scratch.path.parent, len(chunk))
                    writer.write(chunk)
                    advance(packed.tell() // _MIB - shown)
                    shown = packed.tell() // _MIB
    return scratch


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what damaged archives raise into one line that names the file."""
    try:
        yield
    except TAR_DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged ({reason}); fetch it again") from None
    except OSError as error:  # gzip and bzip2 raise it over wrong bytes, without a number
        if error.errno in _DISK_ERRORS and str(error.filename) != str(path):
            raise  # of where it is unpacked to
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be read ({reason})") from None


def _opener(path: Path) -> Callable[[BinaryIO], Any]:
    suffix = path.suffix.lower()
    if suffix in (".gz", ".tgz"):
        return gzip.open
    return bz2.open if suffix in (".bz2", ".tbz2") else lzma.open
