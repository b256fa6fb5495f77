"""Read the files of a tar archive by offset, like those of a zip file."""

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
# Every exception that tarfile and the decompressors raise for damaged archives.
TAR_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20


def is_tar(path: PurePath) -> bool:
    """Whether a file name has a suffix of tar archives."""
    return path.name.lower().endswith(TAR_SUFFIXES)


class TarStorage:
    """The regular files of a tar archive; links and devices are ignored.

    A compressed archive has no offsets to read from, so it is unpacked to a temporary file once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        with report_damage(path):
            if path.suffix.lower() == ".tar":
                self._file = PositionFile(path)
            else:
                self._scratch = unpacked(path)  # keeps the temporary file alive
                self._file = PositionFile(self._scratch.path)
            self._locations = _locations(path, self._file.path)
        self.names = sorted(self._locations)

    def read(self, name: str) -> bytes:
        offset, size = self._locations[name]
        check_entry_size(f"entry {name} of {self.path}", size)
        content = self._file.read(size, offset)
        if len(content) != size:
            raise DataError(f"entry {name} of {self.path} is cut off")
        return content

    def size(self, name: str) -> int:
        return self._locations[name][1]


def _locations(path: Path, unpacked_tar: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of every file by name; a later entry replaces one of the same name."""
    locations: dict[str, tuple[int, int]] = {}
    with tarfile.open(unpacked_tar, "r:") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not member.isreg() or name.startswith("/") or ".." in name.split("/"):
                continue
            if member.sparse is not None:
                raise DataError(
                    f"entry {name} of {path} is sparse; create the archive without --sparse"
                )
            locations[name] = (member.offset_data, member.size)
    return locations


def unpacked(path: Path) -> Scratch:
    """Unpack a gzip, bzip2 or xz file to a temporary file, chunk by chunk.

    Raises:
        DataError: the disk has too little free space.
    """
    scratch, total = Scratch(), path.stat().st_size
    check_room(scratch.path.parent, total)
    with path.open("rb") as compressed, scratch.path.open("wb") as writer:
        with progress(f"unpacking {path.name} (MiB)", -(-total // _MIB)) as advance:
            shown = 0
            with _opener(path)(compressed) as reader:
                while chunk := reader.read(_CHUNK_BYTES):
                    check_room(scratch.path.parent, len(chunk))
                    writer.write(chunk)
                    advance(compressed.tell() // _MIB - shown)
                    shown = compressed.tell() // _MIB
    return scratch


@contextmanager
def report_damage(path: Path) -> Iterator[None]:
    """Turn the exceptions of damaged archives into one line that names the file."""
    try:
        yield
    except TAR_DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged ({reason}); fetch it again") from None
    except OSError as error:  # gzip and bzip2 raise it for wrong bytes, without errno
        if error.errno in _DISK_ERRORS and str(error.filename) != str(path):
            raise  # an error of the disk that it is unpacked to
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be read ({reason})") from None


def _opener(path: Path) -> Callable[[BinaryIO], Any]:
    suffix = path.suffix.lower()
    if suffix in (".gz", ".tgz"):
        return gzip.open
    return bz2.open if suffix in (".bz2", ".tbz2") else lzma.open
