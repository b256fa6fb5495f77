"""What the tracking keeps on this disk and nothing needs any more.

That is: the records of stages that MLflow has, and folders of artifacts in the default store that
no run, model or registered version owns. The store's database is read directly, without MLflow: the
question needs no connection, and the answer must not depend on a server.
"""

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sg3flow.runs.removal import Finding, Needed, Removable, entries, is_old
from sg3flow.runs.run_folder import read_run
from sg3flow.settings import Tag, offsets_folder, tracking_state
from sg3flow.tracking.mlflow_store import tracking_uri
from sg3flow.tracking.outbox import load_offset, noted_end, single_uploader
from sg3flow.tracking.relocation import local_folder

RECORDS, ARTIFACTS = "records", "artifacts"
_RUN = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"m-[0-9a-f]{32}")
_ID = re.compile(r"(?:m-)?[0-9a-f]{32}")
_DAY_MS = 24 * 3600 * 1000


def is_sent(folder: Path) -> bool:
    """Whether a tracking server has everything of a run folder, by what was noted about it."""
    addresses = {tracking_uri(), *_known_addresses()}
    offsets = [load_offset(folder, uri) for uri in addresses]
    return any(offset.run_id and offset.unsent() == (0, 0) for offset in offsets)


def _known_addresses() -> Iterator[str]:
    """The servers to which anything was ever sent."""
    for path in entries(offsets_folder()):
        if path.suffix == ".json":
            try:
                yield str(json.loads(path.read_text(encoding="utf-8"))["uri"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # damaged: it counts as not sent


def find_sent_records(days: float) -> Iterator[Finding]:
    """Records of stages that are old and that MLflow has; they may be the last names of files."""
    for folder in entries(tracking_state()):
        if not folder.is_dir() or read_run(folder) is None or not is_old(folder, days):
            continue
        if is_sent(folder):
            yield Removable(RECORDS, folder, "a stage's record that MLflow has", _sending(folder))
        else:
            how = "was killed" if not noted_end(folder)[0] else "ended"
            why = f"MLflow does not have all of it (the stage {how}): run `sg3flow sync` first"
            yield Needed(RECORDS, folder, why)
    for path in entries(offsets_folder()):
        if is_old(path, days) and not _has_folder(path.with_suffix(".json")):
            yield Removable(RECORDS, path, "how far a removed folder was sent")


def _has_folder(offset: Path) -> bool:
    """Whether the run folder of a file in ``state/sent/`` is there."""
    try:
        return Path(json.loads(offset.read_text(encoding="utf-8"))["folder"]).is_dir()
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True  # not ours to judge


def _sending(folder: Path) -> Callable[[], AbstractContextManager[bool]]:
    """Holds the lock of sending a record."""

    @contextmanager
    def held() -> Iterator[bool]:
        with single_uploader(folder, tracking_uri()) as is_ours:
            yield is_ours

    return held


@dataclass(frozen=True)
class _Owners:
    """Ids in the default store's database.

    Attributes:
        known: of runs and models that are there, deleted ones included.
        deleted: of those that were deleted before a limit.
        used: of those that a registered version names.
    """

    known: set[str]
    deleted: set[str]
    used: set[str]


def find_orphaned_artifacts(database: Path, artifacts: Path, days: float) -> Iterator[Finding]:
    """Folders of the default store whose run or model is unknown, or was deleted long ago.

    Without a database that can be read nothing is found: who owns the folders is not known then.
    """
    folders = [*_folders(artifacts)]
    if not folders:
        return
    try:
        owners = _read_owners(database, days)
    except sqlite3.Error as error:
        yield Needed(ARTIFACTS, artifacts, f"{database.name} cannot be read ({error})")
        return
    for folder in folders:
        name = folder.name
        if name in owners.used or not is_old(folder, days):
            continue
        if name not in owners.known:
            yield Removable(ARTIFACTS, folder, "not in mlflow.db")
        elif name in owners.deleted:
            yield Removable(ARTIFACTS, folder, "of a run or model that was deleted in MLflow")


def _folders(artifacts: Path) -> Iterator[Path]:
    """Folders of runs and models, of the project's experiment and of others."""
    for first in entries(artifacts):
        if not first.is_dir():
            continue
        if _RUN.fullmatch(first.name):
            yield first
        elif first.name == "models" or first.name.isdecimal():
            for path in entries(first):
                if path.is_dir() and _ID.fullmatch(path.name):
                    yield path
                elif path.is_dir() and path.name == "models":
                    yield from (p for p in entries(path) if p.is_dir() and _MODEL.fullmatch(p.name))


def _read_owners(database: Path, days: float) -> _Owners:
    limit = time.time() * 1000 - days * _DAY_MS
    with closing(_open(database)) as connection:
        known, deleted = set[str](), set[str]()
        for query in (
            "SELECT run_uuid, lifecycle_stage, deleted_time FROM runs",
            "SELECT model_id, lifecycle_stage, last_updated_timestamp_ms FROM logged_models",
        ):
            for name, stage, changed in connection.execute(query):
                known.add(name)
                if stage == "deleted" and changed is not None and changed < limit:
                    deleted.add(name)
        query = "SELECT source, storage_location, run_id FROM model_versions"
        texts = [text or "" for row in connection.execute(query) for text in row]
        return _Owners(known, deleted, {name for text in texts for name in _ID.findall(text)})


def registered_digests(database: Path) -> set[str]:
    """SHA-256 of the snapshots of all registered versions in the default store."""
    if not database.is_file():
        return set()
    query = "SELECT value FROM model_version_tags WHERE key = ?"
    try:
        with closing(_open(database)) as connection:
            return {str(row[0]) for row in connection.execute(query, (Tag.SNAPSHOT_SHA256,))}
    except sqlite3.Error:
        return set()


def artifacts_with_digest(database: Path, sha256: str) -> Iterator[Path]:
    """The files in the default store that are the snapshot with this digest."""
    if not database.is_file() or not sha256:
        return
    query = (
        "SELECT m.artifact_location, name.tag_value FROM logged_models m "
        "JOIN logged_model_tags digest USING (model_id) JOIN logged_model_tags name USING "
        "(model_id) WHERE digest.tag_key = ? AND digest.tag_value = ? AND name.tag_key = ?"
    )
    with closing(_open(database)) as connection:
        for address, name in connection.execute(query, (Tag.SHA256, sha256, Tag.SNAPSHOT)):
            folder = local_folder(address)
            path = folder / Path(name).name if folder is not None else None
            if path is not None and path.is_file():
                yield path


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
