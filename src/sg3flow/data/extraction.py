"""Zip files from strangers, unpacked with nothing written outside the target.

Every entry is judged before the first byte is written, and the sizes it declares are held to
while it is written.
"""

import re
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from sg3flow.data.readers.storage import ZIP_DAMAGE
from sg3flow.data.readers.tar_reader import damage_named
from sg3flow.data.worker_pool import ordered_map, workers_for
from sg3flow.errors import DataError
from sg3flow.files import check_room
from sg3flow.progress import progress, tracked

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED_FLAGS = 0x41
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How much a zip file may hold."""

    entries: int = 1_000_000
    total_bytes: int = 128 << 30
    ratio: int = 100  # unpacked bytes to bytes of the zip file
    free_bytes: int = 256 << 20  # the ratio holds beyond this; small drawings pack very well


def extract_zip(
    path: Path, target: Path, limits: Limits | None = None, *, workers: int = 0
) -> None:
    """Unpack a zip file into the existing, empty folder ``target``.

    Args:
        workers: processes that unpack; 0: one a CPU, or none for a few files.

    Raises:
        DataError: no zip file, damaged, encrypted, with links or names that lead out of the
            target, or larger than the limits or the disk; nothing has been written if an entry was
            refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = _checked_entries(archive, path, limits or Limits())
            check_room(target.parent, sum(info.file_size for info in files.values()))
        for folder in {(target / name).parent for name in files}:
            folder.mkdir(parents=True, exist_ok=True)
        jobs = [_Job(info.header_offset, name) for name, info in files.items()]
        unpacked = ordered_map(
            _extract, _Archive(path, target), jobs, workers_for(len(jobs), workers)
        )
        with closing(unpacked):
            for _ in tracked(unpacked, f"unpacking {path.name}", len(jobs)):
                pass
    except ZIP_DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is no whole zip file: {reason}; fetch it again") from None


def _checked_entries(
    archive: zipfile.ZipFile, path: Path, limits: Limits
) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by their cleaned names, every entry found harmless."""
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise DataError(f"{path} has {len(entries):,} entries; at most {limits.entries:,} are read")
    files: dict[str, zipfile.ZipInfo] = {}
    for info in entries:
        # zipfile cuts names at a NUL; the name as it stands in the file is what is judged.
        name = check_name(info.orig_filename, path)
        _check_kind(info, path)
        if info.is_dir():
            continue
        if name in files:
            raise DataError(f"{path} holds the entry '{name}' twice; pack it anew")
        files[name] = info
    _check_tree(files, path)
    _check_sizes(files.values(), path, limits)
    return files


def check_name(name: str, path: Path) -> str:
    """The name of an entry of the archive ``path``, cleaned.

    Raises:
        DataError: it leads out of the folder that it is unpacked into, or is not portable.
    """
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{path} has an entry that leads out of its folder: {name!r}; refused")
    if "\\" in name or "\0" in name or not name.isprintable():
        raise DataError(f"{path} has an entry with a name that is not portable: {name!r}; refused")
    parts = PurePosixPath(name).parts
    if not parts or any(len(part.encode()) > 255 for part in parts):
        raise DataError(f"{path} has an entry with an empty or too long name: {name[:80]!r}")
    return "/".join(parts)


def _check_kind(info: zipfile.ZipInfo, path: Path) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(
            f"{path} has a link or special file: '{info.filename}'; only plain files are accepted"
        )
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise DataError(f"{path} is encrypted ('{info.filename}'); give one without a password")
    if info.compress_type not in _METHODS:
        raise DataError(
            f"'{info.filename}' in {path} is compressed by method {info.compress_type}, "
            "which is not supported; pack it anew with deflate"
        )


def _check_tree(files: dict[str, zipfile.ZipInfo], path: Path) -> None:
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    for name in folders & files.keys():
        raise DataError(f"'{name}' is both a file and a folder in {path}; pack it anew")


def _check_sizes(files: Iterable[zipfile.ZipInfo], path: Path, limits: Limits) -> None:
    """Refuse zip bombs: too large, too well packed, or entries that share their bytes."""
    files, size = list(files), path.stat().st_size
    if any(not 0 <= info.header_offset < size for info in files):
        raise zipfile.BadZipFile("an entry is said to lie outside the file")
    unpacked, packed = sum(f.file_size for f in files), sum(f.compress_size for f in files)
    if unpacked > limits.total_bytes:
        raise DataError(
            f"{path} holds {unpacked:,} bytes unpacked; at most {limits.total_bytes:,} are accepted"
        )
    if unpacked > limits.free_bytes + limits.ratio * size:
        raise DataError(
            f"{path} has {size:,} bytes and claims {unpacked:,} unpacked: "
            f"more than {limits.ratio} times as much looks like a zip bomb; refused"
        )
    if packed > size:
        raise DataError(f"the entries of {path} overlap, as in a zip bomb; refused")


@dataclass(frozen=True, slots=True)
class _Job:
    """One entry: where it stands in the archive, and its cleaned name."""

    offset: int
    name: str


class _Archive:
    """An archive and its target, for processes that each open it for themselves."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self.target = path, target

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @cached_property
    def entries(self) -> dict[int, zipfile.ZipInfo]:
        return {info.header_offset: info for info in self.archive.infolist() if not info.is_dir()}


def _extract(shared: _Archive, job: _Job) -> None:
    info = shared.entries[job.offset]
    written = 0
    with shared.archive.open(info) as reader, (shared.target / job.name).open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > info.file_size:
                break
            writer.write(chunk)
    if written != info.file_size:
        raise DataError(
            f"'{info.filename}' in {shared.path} has another size than it declares; refused"
        )


_TAR_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20


def extract_tar(path: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack a plain or compressed tar archive into the existing, empty folder ``target``.

    Raises:
        DataError: no tar archive, damaged, with links, special files or names that lead out of the
            target, or larger than the limits or the disk.
    """
    limits, size = limits or Limits(), path.stat().st_size
    most = min(limits.total_bytes, limits.free_bytes + limits.ratio * size)
    written = shown = 0
    with damage_named(path), path.open("rb") as stream:
        with progress(f"unpacking {path.name} (MiB)", -(-size // _MIB)) as advance:
            with tarfile.open(fileobj=stream) as archive:
                for number, member in enumerate(archive, 1):
                    if number > limits.entries:
                        raise DataError(f"{path} has more than {limits.entries:,} entries; refused")
                    written += member.size
                    if written > most:
                        raise DataError(
                            f"{path} has {size:,} bytes and holds more than {most:,} unpacked; "
                            "that looks like a bomb; refused"
                        )
                    _extract_member(archive, member, target, path)
                    advance(stream.tell() // _MIB - shown)
                    shown = stream.tell() // _MIB


def _extract_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, path: Path
) -> None:
    if member.isdir():
        return
    name = check_name(member.name, path)
    if not member.isreg():
        raise DataError(
            f"{path} has a link or special file: '{member.name}'; only plain files are accepted"
        )
    file = target / name
    if file.exists() or any((target / parent).is_file() for parent in Path(name).parents):
        raise DataError(f"{path} holds the entry '{name}' twice; pack it anew")
    check_room(target, member.size)
    file.parent.mkdir(parents=True, exist_ok=True)
    reader = archive.extractfile(member)
    assert reader is not None
    with reader, file.open("xb") as writer:
        while chunk := reader.read(_TAR_CHUNK_BYTES):
            writer.write(chunk)
    if file.stat().st_size != member.size:
        raise DataError(f"'{name}' in {path} is cut off; fetch it again")
