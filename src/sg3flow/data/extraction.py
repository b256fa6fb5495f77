"""Unpack zip and tar files from untrusted sources; nothing is written outside the target.

The entries of a zip file are all checked before the first byte is written, those of a tar archive
one by one. Entries may not exceed their declared size.
"""

import re
import shutil
import tarfile
import zipfile
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from sg3flow.data.readers.storage import (
    ZIP_DAMAGE,
    EntryNames,
    Limits,
    check_zip_sizes,
    is_plain_file,
    plain_name,
)
from sg3flow.data.readers.tar_reader import (
    CheckedTarInfo,
    check_unpacked,
    file_of,
    report_damage,
    why_no_file,
)
from sg3flow.data.worker_pool import ordered_map, workers_for
from sg3flow.errors import DataError
from sg3flow.files import check_room
from sg3flow.progress import progress, tracked

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED_FLAGS = 0x41
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20


def extract_zip(
    path: Path, target: Path, limits: Limits | None = None, *, workers: int = 0
) -> None:
    """Unpack a zip file into the existing, empty folder ``target``.

    Args:
        workers: number of processes; 0: one per CPU, or just this one for a few files.

    Raises:
        DataError: the file is not a zip file, damaged or encrypted, contains links or names that
            lead out of the target, or exceeds the limits or the free disk space. Nothing is
            written if an entry is refused.
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
        raise DataError(f"{path} is not a complete zip file: {reason}; fetch it again") from None


def _checked_entries(
    archive: zipfile.ZipFile, path: Path, limits: Limits
) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip by normalized name, after every entry has passed the checks."""
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise DataError(
            f"{path} has {len(entries):,} entries; at most {limits.entries:,} are accepted"
        )
    names, files = EntryNames(path), dict[str, zipfile.ZipInfo]()
    for number, info in enumerate(entries, 1):
        # zipfile cuts names at a NUL; the name as stored in the file is checked.
        check_name(info.orig_filename, path)
        _check_kind(info, path)
        if not info.is_dir():
            files[names.add(info.orig_filename, number)] = info
    _check_sizes(files.values(), path, limits)
    return files


def check_name(name: str, path: Path) -> None:
    """Check that the name of an entry of the archive ``path`` can be written on every system.

    Raises:
        DataError: it leads out of the target folder, or is not portable.
    """
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{path} has an entry that leads out of its folder: {name[:80]!r}; refused")
    if "\\" in name or "\0" in name or not name.isprintable():
        raise DataError(
            f"{path} has an entry with a name that is not portable: {name[:80]!r}; rename it, or "
            "pass the archive to pack as --source"
        )
    parts = PurePosixPath(name).parts
    if not parts or any(len(part.encode()) > 255 for part in parts):
        raise DataError(
            f"{path} has an entry with an empty or too long name: {name[:80]!r}; rename it"
        )


def _check_kind(info: zipfile.ZipInfo, path: Path) -> None:
    if not is_plain_file(info):
        raise DataError(
            f"{path} contains a link or special file: '{info.filename}'; only regular files are "
            "accepted"
        )
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise DataError(f"{path} is encrypted ('{info.filename}'); pass one without a password")
    if info.compress_type not in _METHODS:
        raise DataError(
            f"'{info.filename}' in {path} is compressed by method {info.compress_type}, "
            "which is not supported; create it again with deflate"
        )


def _check_sizes(files: Collection[zipfile.ZipInfo], path: Path, limits: Limits) -> None:
    """Refuse a zip file that is too large unpacked, and zip bombs."""
    size = path.stat().st_size
    if any(not 0 <= info.header_offset < size for info in files):
        raise zipfile.BadZipFile("an entry lies outside the file")
    unpacked = sum(info.file_size for info in files)
    if unpacked > limits.total_bytes:
        raise DataError(
            f"{path} holds {unpacked:,} bytes unpacked; at most {limits.total_bytes:,} are accepted"
        )
    check_zip_sizes(files, path, limits)


@dataclass(frozen=True, slots=True)
class _Job:
    """One entry: its offset in the archive and its normalized name."""

    offset: int
    name: str


class _Archive:
    """An archive and its target; each worker process opens the archive itself."""

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
            f"the size of '{info.filename}' in {shared.path} is not the declared one; refused"
        )


def extract_tar(path: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack a tar archive, compressed or not, into the existing, empty folder ``target``.

    A hard link becomes a copy of the file that it names.

    Raises:
        DataError: the file is not a tar archive or damaged, contains other links, special files or
            names that lead out of the target, or exceeds the limits or the free disk space.
    """
    limits, size = limits or Limits(), path.stat().st_size
    most = min(limits.total_bytes, limits.unpacked_bytes(size))
    unpacking = _TarUnpacking(path, target, most)
    shown = 0
    with report_damage(path), path.open("rb") as stream:
        with progress(f"unpacking {path.name} (MiB)", -(-size // _MIB)) as advance:
            with tarfile.open(fileobj=stream, tarinfo=CheckedTarInfo) as archive:
                for number, member in enumerate(archive, 1):
                    if number > limits.entries:
                        raise DataError(f"{path} has more than {limits.entries:,} entries; refused")
                    if not member.isdir():
                        unpacking.write(archive, member, number)
                    advance(stream.tell() // _MIB - shown)
                    shown = stream.tell() // _MIB


class _TarUnpacking:
    """Writes the files of a tar archive one by one; at most ``most`` bytes."""

    def __init__(self, path: Path, target: Path, most: int) -> None:
        self._path, self._target, self._most = path, target, most
        self._names, self._written = EntryNames(path), 0
        self._files: dict[str, tarfile.TarInfo] = {}

    def write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, number: int) -> None:
        """Write the entry with this number, which is no folder."""
        check_name(member.name, self._path)
        name, file = self._names.add(member.name, number), file_of(member, self._files)
        if file is None:
            raise DataError(
                f"{self._path} contains a link or special file: '{member.name}' is "
                f"{why_no_file(member)}"
            )
        self._files[name] = file
        self._written += file.size
        check_unpacked(self._written, self._most, self._path)
        check_room(self._target, file.size)
        place = self._target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if file is member:
            self._write_content(archive, member, place)
        else:
            shutil.copyfile(self._target / plain_name(file.name), place)

    def _write_content(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path
    ) -> None:
        reader = archive.extractfile(member)
        assert reader is not None
        with reader, place.open("xb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                writer.write(chunk)
        if place.stat().st_size != member.size:
            raise DataError(f"'{member.name}' in {self._path} is cut off; fetch it again")
