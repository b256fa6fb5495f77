"""Send run folders to MLflow after the fact."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from sg3flow.errors import TrackingError
from sg3flow.reporting import read_whole_lines
from sg3flow.tracking.mirror import FolderMirror


def sync_folder(folder: Path) -> Iterator[str]:
    """Send every run folder in or below ``folder``; yields a line about each.

    Raises:
        TrackingError: there is no run folder, or the server does not answer.
    """
    runs = sorted(path.parent for path in folder.rglob("events.jsonl"))
    if not runs:
        raise TrackingError(f"no run folder (run.json, events.jsonl) in {folder}")
    for run in runs:
        mirror = FolderMirror(run)
        if mirror.is_complete():
            yield f"{run}: nothing to send"
        elif _is_training(run):
            yield f"{run}: is training, and sends by itself"
        else:
            mirror.finish("FINISHED" if _has_ended(run) else "KILLED")
            yield f"{run}: all sent"


def _is_training(run: Path) -> bool:
    """Whether a process holds the lock of the training."""
    path = run.parent / ".lock"
    if not path.exists():
        return False
    with path.open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _has_ended(run: Path) -> bool:
    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    rows = read_whole_lines(run / "stats.jsonl")
    return bool(rows) and rows[-1]["nimg"] >= described["params"]["kimg"] * 1000
