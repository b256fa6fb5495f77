"""Trainings in the state folder that are over and old, and what of them something still needs."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sg3flow.files import try_lock_open_file
from sg3flow.runs.removal import ASIDE, Finding, Needed, Removable, entries, is_old
from sg3flow.runs.run_folder import (
    EVENTS,
    RUN,
    list_snapshots,
    read_run,
    snapshot_digests,
    snapshot_kimg,
)
from sg3flow.runs.snapshot_retention import needed_snapshots

GROUP = "states"
_NAME = re.compile(r"[0-9a-f]{12}(-[0-9]+)?")  # a fingerprint, and the end of a shorter training
_STATE = re.compile(r"state-([0-9]{10})\.json")


def find_old_states(
    root: Path,
    days: float,
    *,
    is_sent: Callable[[Path], bool],
    shown_uids: set[str],
    registered: set[str],
    unfinished: bool,
) -> Iterator[Finding]:
    """Trainings in a state folder that nobody has touched for so many days.

    A finished training goes as a whole. One with a snapshot that is best, registered or the start
    of another training keeps its run folder, and loses only its resumable states.

    Args:
        is_sent: whether MLflow has everything of a run folder.
        shown_uids: ids of the trainings that output folders of the project show.
        registered: SHA-256 of snapshots of registered versions.
        unfinished: also trainings that have not reached their ``kimg``.
    """
    for folder in entries(root):
        if folder.is_dir() and folder.name.endswith(ASIDE):
            yield Removable(GROUP, folder, "left by an interrupted clean")
        elif folder.is_dir() and _NAME.fullmatch(folder.name) and is_old(folder, days):
            yield from _examine(folder, is_sent, shown_uids, registered, unfinished)


def _examine(
    folder: Path,
    is_sent: Callable[[Path], bool],
    shown_uids: set[str],
    registered: set[str],
    unfinished: bool,
) -> Iterator[Finding]:
    work, guard = folder / "run", training_lock(folder)
    run = read_run(work)
    if run is None:
        why = "no run.json that can be read; remove it by hand if you do not need it"
        yield Needed(GROUP, folder, why)
        return
    done, wanted = max(_images(folder), _newest_snapshot(work)), _length(run)
    if done < wanted and not unfinished:
        progress = f"{done / 1000:g} of {wanted / 1000:g} kimg"
        yield Needed(GROUP, folder, f"unfinished at {progress}; --unfinished removes it")
    elif run["uid"] in shown_uids:
        yield Needed(GROUP, folder, "runs/train shows this training")
    elif needed := needed_snapshots(work) | _of_digests(work, registered):
        yield Removable(GROUP, folder / "states", "states of a finished training", guard)
        words = f"{sorted(needed)[0]} is best, registered or the start of another training"
        yield Needed(GROUP, work, words)
    elif (work / EVENTS).is_file() and not is_sent(work):
        yield Needed(GROUP, folder, "MLflow does not have all of it: run `sg3flow sync` first")
    else:
        why = "a finished training" if done >= wanted else "an unfinished training"
        yield Removable(GROUP, folder, why, guard)


def _of_digests(work: Path, wanted: set[str]) -> set[str]:
    return {name for name, digest in snapshot_digests(work).items() if digest in wanted}


def _images(folder: Path) -> int:
    """Images seen at the newest state."""
    found = (_STATE.fullmatch(path.name) for path in entries(folder / "states"))
    return max((int(match[1]) for match in found if match), default=0)


def _newest_snapshot(work: Path) -> int:
    """Images seen at the newest snapshot: an earlier clean may have taken the states."""
    found = (snapshot_kimg(path.name) for path in list_snapshots(work))
    return 1000 * max((kimg for kimg in found if kimg is not None), default=0)


def _length(run: dict[str, Any]) -> int:
    """The length of a training in images; one that is not recorded counts as endless."""
    kimg = (run.get("params") or {}).get("kimg")
    return int(kimg) * 1000 if isinstance(kimg, int) else 10**12


def training_lock(folder: Path) -> Callable[[], AbstractContextManager[bool]]:
    """Holds the lock of a training's folder in the state folder, which a running training has.

    The lock file is opened for reading: its time shows when somebody trained last.
    """

    @contextmanager
    def held() -> Iterator[bool]:
        try:
            handle = os.open(folder / ".lock", os.O_RDONLY)
        except FileNotFoundError:  # no training has ever run there
            yield True
            return
        try:
            yield try_lock_open_file(handle)
        finally:
            os.close(handle)

    return held


def shown_uids(root: Path) -> set[str]:
    """Ids of the trainings that the folders in ``runs/`` of a project show."""
    found = (read_run(described.parent) for described in (root / "runs").glob(f"*/{RUN}"))
    return {str(run.get("uid")) for run in found if run is not None}
