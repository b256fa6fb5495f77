"""Read the files of a tar archive by offset, like those of a zip file."""

import bz2
import errno
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from sg3flow.data.readers.storage import (
    EntryNames,
    Limits,
    check_entry_size,
    is_hidden,
    plain_name,
)
from sg3flow.errors import DataError
from sg3flow.files import PositionFile, Scratch, check_room
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
    """The files of a tar archive, hard links included; other links cannot be read.

    A compressed archive has no offsets to read from, so it is unpacked to a temporary file once.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        with report_damage(path):
            if path.suffix.lower() == ".tar":
                self._file = PositionFile(path)
            else:
                self._scratch = unpacked(path, limits)  # keeps the temporary file alive
                self._file = PositionFile(self._scratch.path)
            self._locations = _locations(path, self._file.path, self.problems)
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


def _locations(
    path: Path, unpacked_tar: Path, problems: dict[str, str]
) -> dict[str, tuple[int, int]]:
    """Offset and length of every file by name; links without a file go to ``problems``."""
    names, files = EntryNames(path), dict[str, tarfile.TarInfo]()
    with tarfile.open(unpacked_tar, "r:", tarinfo=CheckedTarInfo) as archive:
        for number, member in enumerate(archive, 1):
            if member.isdir():
                continue
            name = names.add(member.name, number)
            file = file_of(member, files)
            if file is not None:
                files[name] = _not_sparse(file, path)
            elif not is_hidden(name):
                problems[name] = why_no_file(member)
    return {name: (file.offset_data, file.size) for name, file in files.items()}


class CheckedTarInfo(tarfile.TarInfo):
    """Reports a damaged header, which tarfile takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "CheckedTarInfo":
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if str(error) in ("end of file header", "empty header"):  # the end, in both its forms
                raise
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from None


def file_of(
    member: tarfile.TarInfo, files: Mapping[str, tarfile.TarInfo]
) -> tarfile.TarInfo | None:
    """The regular file that an entry is, or that it is a hard link to; None: it is neither.

    GNU tar writes files that share their content, as DVC's checkouts may, as hard links.

    Args:
        member: an entry that is no folder.
        files: the files before it, by name.
    """
    if member.islnk():
        return files.get(plain_name(member.linkname))
    return member if member.isreg() else None


def why_no_file(member: tarfile.TarInfo) -> str:
    """Why an entry has no content that could be read."""
    if member.issym():
        return "a symbolic link; create the archive again with tar --dereference"
    if member.islnk():
        return f"a hard link to '{member.linkname[:80]}', which is not in the archive before it"
    return "a special file"


def _not_sparse(file: tarfile.TarInfo, path: Path) -> tarfile.TarInfo:
    if file.sparse is None:
        return file
    raise DataError(
        f"entry {file.name} of {path} is sparse; fetch unpacks it, or create it without --sparse"
    )


def unpacked(path: Path, limits: Limits | None = None) -> Scratch:
    """Unpack a gzip, bzip2 or xz file to a temporary file, chunk by chunk.

    Raises:
        DataError: it is a decompression bomb, or the disk has too little free space.
    """
    scratch, total, written = Scratch(), path.stat().st_size, 0
    most = (limits or Limits()).unpacked_bytes(total)
    check_room(scratch.path.parent, total)
    with path.open("rb") as compressed, scratch.path.open("wb") as writer:
        with progress(f"unpacking {path.name} (MiB)", -(-total // _MIB)) as advance:
            shown = 0
            with _opener(path)(compressed) as reader:
                while chunk := reader.read(_CHUNK_BYTES):
                    written += len(chunk)
                    check_unpacked(written, most, path)
                    check_room(scratch.path.parent, len(chunk))
                    writer.write(chunk)
                    advance(compressed.tell() // _MIB - shown)
                    shown = compressed.tell() // _MIB
    return scratch


def check_unpacked(unpacked_bytes: int, most: int, path: Path) -> None:
    """Raise DataError if the archive ``path`` holds more than ``most`` bytes unpacked."""
    if unpacked_bytes > most:
        raise DataError(
            f"{path} has {path.stat().st_size:,} bytes and holds more than {most:,} unpacked; "
            "refused as a decompression bomb"
        )


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
