"""What killed processes left behind, old reproductions, and files that can be had again."""

import re
from collections.abc import Iterator
from pathlib import Path

from sg3flow.runs.removal import ASIDE, Removable, entries, is_old
from sg3flow.runs.worktree import read_report
from sg3flow.settings import cache_folder

TEMPORARY, REPRODUCTIONS, CACHES = "temporary", "reproductions", "caches"
# Of this project's writers, of `sg3flow clean`, and of MLflow's local store.
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}(\.tmp|{re.escape(ASIDE)})|\.artifact\.uploading\..+")
_KILLED_DAYS = 1.0  # no writer works on one file for so long
_PLACES = ("code", "data", "mlruns", "renders", "reports", "runs", "state")


def find_temporary(root: Path, state: Path) -> Iterator[Removable]:
    """Temporary files of processes that were killed more than a day ago."""
    places = {root / name for name in _PLACES} | {state, cache_folder()}
    for place in sorted(places):
        for path in _walk(place):
            if _TEMPORARY.fullmatch(path.name) and is_old(path, _KILLED_DAYS):
                yield Removable(TEMPORARY, path, "left by a process that was killed")


def _walk(place: Path) -> Iterator[Path]:
    for path in entries(place):
        yield path
        if path.is_dir() and not _TEMPORARY.fullmatch(path.name):
            yield from _walk(path)


def find_reproductions(root: Path, days: float) -> Iterator[Removable]:
    """Old worktrees of ``sg3flow reproduce``, with their states and snapshots."""
    for folder in entries(root / "reproductions"):
        if folder.is_dir() and read_report(folder) is not None and is_old(folder, days):
            yield Removable(REPRODUCTIONS, folder, "of `sg3flow reproduce`")


def find_caches(days: float) -> Iterator[Removable]:
    """Old files of the cache folder that are downloaded or computed again when needed.

    A file without a record of its download was put there by the user, and stays.
    """
    cache = cache_folder()
    for path in entries(cache):
        record = path.with_name(path.name + ".json")
        is_download = path.is_file() and record.is_file() and not record.is_symlink()
        if is_download and is_old(path, days):
            yield Removable(CACHES, path, "downloaded")
            yield Removable(CACHES, record, "record of the download")
        elif path.suffix == ".part" and path.is_file() and is_old(path, _KILLED_DAYS):
            yield Removable(CACHES, path, "an interrupted download")
    for path in entries(cache / "stats"):
        if path.suffix == ".npz" and is_old(path, days):
            yield Removable(CACHES, path, "features of a reference set")
