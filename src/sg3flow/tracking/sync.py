"""Send run folders to MLflow after the fact."""

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
        status = "FINISHED" if _is_complete(run) else "KILLED"
        FolderMirror(run).finish(status)
        yield f"{run}: all sent"


def _is_complete(run: Path) -> bool:
    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    rows = read_whole_lines(run / "stats.jsonl")
    return bool(rows) and rows[-1]["nimg"] >= described["params"]["kimg"] * 1000
