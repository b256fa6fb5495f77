"""Artifacts in a local store: linked instead of copied, and removed again.

The default store keeps artifacts in ``mlruns/`` of the project, mostly on the disk that has the run
folder. MLflow would copy every snapshot there. A hard link is enough for files that a training
writes once and replaces as a whole; MLflow, too, replaces and removes artifacts, and writes to
none in place (its local store writes beside the file and renames).
"""

from contextlib import suppress
from pathlib import Path, PurePosixPath

from sg3flow.files import link_or_copy
from sg3flow.tracking.relocation import local_folder


def link_artifact(address: str, name: str, source: Path) -> bool:
    """Give ``source`` a name in a folder of artifacts, if that is a folder of this machine.

    Args:
        address: of the folder, as MLflow has it.
        name: of the artifact below the folder, with ``/`` between its parts.

    Returns:
        False: the folder belongs to a server or another store, and nothing was done.

    Raises:
        OSError: there is no ``source``, or the folder cannot be written.
    """
    path = _place(address, name)
    if path is None:
        return False
    link_or_copy(source, path)
    return True


def remove_artifact(address: str, name: str) -> bool:
    """Remove an artifact from a folder of this machine; False: the folder is no such one."""
    path = _place(address, name)
    if path is None:
        return False
    with suppress(FileNotFoundError):
        path.unlink()
    return True


def _place(address: str, name: str) -> Path | None:
    folder = local_folder(address)
    parts = PurePosixPath(name)
    assert not parts.is_absolute() and ".." not in parts.parts
    return folder / parts if folder is not None else None
