"""What can be removed from the disk, what that frees, and removing it.

A file with several names (hard links) frees nothing until its last name is gone. Nothing here
follows a symbolic link: a link is neither counted nor removed, and what it names is left alone.
"""

import os
import secrets
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 512  # the unit of st_blocks
_DAY_SEC = 24 * 3600
ASIDE = ".removed"  # ending of a folder that is being removed


def _unguarded() -> AbstractContextManager[bool]:
    return nullcontext(True)


@dataclass(frozen=True)
class Removable:
    """A file or folder that nothing needs.

    Attributes:
        group: kind of things, such as ``states``.
        path: the file or folder.
        why: a few words.
        guard: holds the lock that keeps others away while it is removed; gives False if another
            process has it.
    """

    group: str
    path: Path
    why: str
    guard: Callable[[], AbstractContextManager[bool]] = _unguarded


@dataclass(frozen=True)
class Needed:
    """Something old that stays, and why."""

    group: str
    path: Path
    why: str


Finding = Removable | Needed


def is_old(path: Path, days: float) -> bool:
    """Whether neither a file nor anything in a folder was changed for so many days."""
    limit = time.time() - days * _DAY_SEC
    newest = max((status.st_mtime for status in _statuses(path)), default=None)
    return newest is not None and newest < limit


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; symbolic links are left out, and a missing folder is empty."""
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def freed_bytes(items: Sequence[Removable]) -> list[int]:
    """The bytes that each removal frees, if all are removed in this order.

    A file frees its bytes with its last name; a name elsewhere, which is not removed, keeps them.
    """
    left: Counter[tuple[int, int]] = Counter()
    freed = []
    for item in items:
        size = 0
        for status in _statuses(item.path):
            if stat.S_ISDIR(status.st_mode):
                continue
            file = (status.st_dev, status.st_ino)
            left[file] += 1
            if left[file] == status.st_nlink:
                size += status.st_blocks * _BLOCK
        freed.append(size)
    return freed


def named_bytes(items: Iterable[Removable]) -> int:
    """The bytes of all names that are removed, each file once."""
    sizes: dict[tuple[int, int], int] = {}
    for item in items:
        for status in _statuses(item.path):
            if not stat.S_ISDIR(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return sum(sizes.values())


def is_free(item: Removable) -> bool:
    """Whether no other process uses it now."""
    with item.guard() as is_ours:
        return is_ours


def remove(item: Removable) -> bool:
    """Remove it; False: another process uses it now, and it stays.

    A folder is renamed first, so that no one finds a half-removed one under its name.

    Raises:
        OSError: it cannot be removed, or only in part.
    """
    with item.guard() as is_ours:
        if not is_ours:
            return False
        path = item.path
        if path.is_symlink():  # it has taken the place of what was found
            return False
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        aside = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}{ASIDE}")
        try:
            os.rename(path, aside)
        except FileNotFoundError:  # someone else removed it meanwhile
            return True
        shutil.rmtree(aside)
    return True


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """The status of a file, or of a folder and everything in it; of what vanishes meanwhile: none.

    Raises:
        OSError: a folder cannot be read.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        return
    yield status
    if not stat.S_ISDIR(status.st_mode):
        return
    try:
        found = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in found:
        yield from _statuses(Path(entry.path))
