"""The default tracking store of a project whose folder was moved, renamed or copied.

MLflow stores the absolute address of every artifact in ``mlflow.db``. In another folder these
addresses still name the old one: models do not load, and new files recreate the old folder, or go
into the original of a copy. ``follow_project`` sets them to the present folder, in one transaction.

It changes nothing but the project's own database, and only where the addresses belong to the
default layout, ``PROJECT/mlruns``. It refuses where that would lose files that are still readable.
"""

import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sg3flow.errors import TrackingError

_ARTIFACTS = "mlruns"
_WAIT_SEC = 10.0  # for another process that writes to the database

# Table, column and condition of every address.
_ADDRESSES = (
    ("experiments", "artifact_location", "1"),
    ("runs", "artifact_uri", "1"),
    ("logged_models", "artifact_location", "1"),
    ("model_versions", "source", "1"),
    ("model_versions", "storage_location", "1"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
)
_NAMES = {"runs": "run", "logged_models": "logged model", "model_versions": "registered version"}


@dataclass(frozen=True)
class _Address:
    """A local address in the database.

    Attributes:
        place: table, column and row.
        path: what it names.
        is_url: whether it is written as a file:// URL.
    """

    place: tuple[str, str, int]
    path: Path
    is_url: bool

    @property
    def has_files(self) -> bool:
        """Whether it is the address of one thing with files, not of a whole experiment."""
        return self.place[0] in _NAMES


@dataclass(frozen=True)
class Relocation:
    """Addresses that name an old folder of the project.

    Attributes:
        old, new: the folders.
        addresses: those below ``old``.
        refusal: why they must not be changed without being asked to; empty: they may.
    """

    old: Path
    new: Path
    addresses: list[_Address]
    refusal: str = ""

    @property
    def num_left(self) -> int:
        """How many things have files in the old folder only."""
        left = [each for each in self.addresses if each.has_files and each.path.exists()]
        return sum(not self.moved(each).exists() for each in left)

    def moved(self, address: _Address) -> Path:
        """What an address names in the new folder."""
        return self.new / address.path.relative_to(self.old)

    def advice(self) -> str:
        """What to do about it before the next command of a stage does it."""
        return (
            f"mlflow.db has artifact addresses in {self.old}: `sg3flow doctor --repair` sets them "
            f"to {self.new}, and so does the next command that uses it"
        )

    def sentence(self) -> str:
        """What is set to the new folder; empty: nothing that a user would miss."""
        counts = []
        for table, name in _NAMES.items():
            rows = {each.place[2] for each in self.addresses if each.place[0] == table}
            if rows:
                counts.append(f"{len(rows)} {name}{'s' if len(rows) > 1 else ''}")
        if not counts:
            return ""
        is_copy = _has_database(self.old)
        how = "this project is a copy of" if is_copy else "this project was moved from"
        text = (
            f"{how} {self.old}: the artifact addresses of {', '.join(counts)} in "
            f"mlflow.db now name {self.new}"
        )
        source, target = shlex.quote(f"{self.old / _ARTIFACTS}/."), self.new / _ARTIFACTS
        copy = f"cp -rn {source} {shlex.quote(str(target))}"
        return text + (
            f"; files of {self.num_left} are only there: `{copy}`" if self.num_left else ""
        )


def follow_project(database: Path, root: Path, *, force: bool = False) -> list[str]:
    """Set the addresses in the default store to the project's present folder.

    Args:
        database: ``mlflow.db`` of the project; it need not exist.
        root: the present folder.
        force: also where files are left behind.

    Returns:
        a sentence for each old folder from which something was moved.

    Raises:
        TrackingError: files would be lost, or the database cannot be written.
    """
    relocations = find_relocations(database, root)
    refused = [each.refusal for each in relocations if each.refusal]
    if refused and not force:
        raise TrackingError(refused[0])
    if relocations:
        _rewrite(database, relocations)
    return list(filter(None, (each.sentence() for each in relocations)))


def find_relocations(database: Path, root: Path) -> list[Relocation]:
    """The old folders that addresses in the default store name; changes nothing.

    A database that is absent, or is none of MLflow's, has no such addresses.
    """
    if not database.is_file():
        return []
    try:
        with closing(_open(database, "ro")) as connection:
            if not _foreign(connection, root, _ADDRESSES[:1]):
                return []  # runs and models are below their experiment
            foreign = _foreign(connection, root, _ADDRESSES)
    except sqlite3.DatabaseError:
        return []  # MLflow reports it
    is_born_here = not any(each.place == _FIRST_EXPERIMENT for each in foreign)
    projects = _by_project(foreign).items()
    found = (_examine(folder, group, root, is_born_here) for folder, group in projects)
    return [each for each in found if each is not None]


# Made with the database, in the folder of that moment.
_FIRST_EXPERIMENT = ("experiments", "artifact_location", 0)


def _examine(
    folder: Path, group: list[_Address], root: Path, is_born_here: bool
) -> Relocation | None:
    """How the addresses below ``folder`` follow the project; None: they stay."""
    if _is_same(folder / _ARTIFACTS, root / _ARTIFACTS):
        return None  # one folder by two names, as in a container
    with_files = [each for each in group if each.has_files]
    # Stages may have run in a folder inside the project: what is there stays there.
    for parent in (folder, *folder.parents):
        found = Relocation(folder, root / folder.relative_to(parent), group)
        if any(found.moved(each).exists() for each in with_files):
            return found if found.new != folder else None
    has_left = any(each.path.exists() for each in with_files)
    if has_left and _has_database(folder):
        reason = (
            f"mlflow.db was copied from {folder} without its artifacts, which are in "
            f"{folder / _ARTIFACTS}: copy that folder to {root / _ARTIFACTS}, or run "
            "`sg3flow doctor --repair` to continue without them"
        )
        return Relocation(folder, root, group, reason)
    if has_left or is_born_here:
        return None  # a folder that a user chose for an experiment
    return Relocation(folder, root, group)


def _by_project(addresses: list[_Address]) -> dict[Path, list[_Address]]:
    """The addresses of the default layout, by the folder that has their ``mlruns``."""
    groups: dict[Path, list[_Address]] = {}
    for each in addresses:
        parents = [p.parent for p in (each.path, *each.path.parents) if p.name == _ARTIFACTS]
        if parents:
            groups.setdefault(parents[0], []).append(each)
    return groups


def _rewrite(database: Path, relocations: list[Relocation]) -> None:
    try:
        with closing(_open(database, "rw")) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            for relocation in relocations:
                for each in relocation.addresses:
                    path = relocation.moved(each)
                    table, column, row = each.place
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                        (path.as_uri() if each.is_url else str(path), row),
                    )
    except sqlite3.OperationalError as error:
        old = relocations[0].old
        raise TrackingError(
            f"{database} has artifact addresses in {old}, from where this project was moved or "
            f"copied, and cannot be corrected: {error}; make it writable, end other programs that "
            "use it, and run `sg3flow doctor --repair`"
        ) from None


def _open(database: Path, mode: str) -> sqlite3.Connection:
    uri = f"{database.as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=_WAIT_SEC, isolation_level=None)


def _foreign(
    connection: sqlite3.Connection, root: Path, columns: tuple[tuple[str, str, str], ...]
) -> list[_Address]:
    """The local addresses outside the project's artifacts."""
    inside = root / _ARTIFACTS
    return [each for each in _read(connection, columns) if not each.path.is_relative_to(inside)]


def _read(
    connection: sqlite3.Connection, columns: tuple[tuple[str, str, str], ...]
) -> Iterator[_Address]:
    """The local addresses in some columns; an older MLflow lacks some of them."""
    for table, column, condition in columns:
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if column not in present:
            continue
        query = f"SELECT rowid, {column} FROM {table} WHERE {condition}"
        for row, text in connection.execute(query):
            path = local_folder(text or "")
            if path is not None:
                yield _Address((table, column, row), path, text.startswith("file:"))


def local_folder(text: str) -> Path | None:
    """The absolute local path that an artifact address names; None: it names no such path."""
    if text.startswith("/"):
        return Path(text)
    parts = urlsplit(text) if text.startswith("file:") else None
    if parts is None or parts.netloc not in ("", "localhost"):
        return None
    return Path(url2pathname(parts.path))


def _has_database(folder: Path) -> bool:
    return (folder / "mlflow.db").is_file()


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
