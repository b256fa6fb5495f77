"""Zip files from strangers, unpacked with nothing written outside the target.

Every entry is judged before the first byte is written, and the sizes it declares are held to
while it is written.
"""

import re
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sg3flow.data.storage import ZIP_DAMAGE
from sg3flow.errors import DataError
from sg3flow.progress import tracked
from sg3flow.transfers import check_room

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


def extract_zip(path: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack a zip file into the existing, empty folder ``target``.

    Raises:
        DataError: no zip file, damaged, encrypted, with links or names that lead out of the
            target, or larger than the limits or the disk; nothing has been written if an entry was
            refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files = _checked_entries(archive, path, limits or Limits())
            check_room(target.parent, sum(info.file_size for info in files.values()))
            for name, info in tracked(files.items(), f"unpacking {path.name}", len(files)):
                _extract_entry(archive, info, target / name, path)
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
        name = _checked_name(info, path)
        _check_kind(info, path)
        if info.is_dir():
            continue
        if name in files:
            raise DataError(f"{path} holds the entry '{name}' twice; pack it anew")
        files[name] = info
    _check_tree(files, path)
    _check_sizes(files.values(), path, limits)
    return files


def _checked_name(info: zipfile.ZipInfo, path: Path) -> str:
    # zipfile cuts names at a NUL; the name as it stands in the file is what is judged.
    name = info.orig_filename
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


def _extract_entry(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, path: Path
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(info) as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > info.file_size:
                break
            writer.write(chunk)
    if written != info.file_size:
        raise DataError(f"'{info.filename}' in {path} has another size than it declares; refused")
