"""Send run folders to MLflow after the fact."""

from collections.abc import Iterator
from pathlib import Path

from sg3flow.errors import TrackingError
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
        mirror.finish("FINISHED")
        yield f"{run}: all sent"
