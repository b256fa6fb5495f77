"""Tar archives from strangers, unpacked with nothing written outside the target.

They are read once from front to end, so an entry that is refused may stand behind others that were
written already: the target is a folder that is thrown away then.
"""

import tarfile
from pathlib import Path

from sg3flow.data.extraction import Limits, check_name
from sg3flow.data.tar_storage import damage_named
from sg3flow.errors import DataError
from sg3flow.progress import progress
from sg3flow.transfers import check_room

_CHUNK_BYTES = 1 << 20
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
        while chunk := reader.read(_CHUNK_BYTES):
            writer.write(chunk)
    if file.stat().st_size != member.size:
        raise DataError(f"'{name}' in {path} is cut off; fetch it again")
