"""Send run folders to MLflow after the fact."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

from sg3flow.errors import Sg3flowError, TrackingError
from sg3flow.reporting import read_run
from sg3flow.tracking.delivery import Delivery
from sg3flow.tracking.journal import EVENTS
from sg3flow.tracking.position import load_position, sole_sender
from sg3flow.tracking.store import connect, tracking_uri


def sync_folder(folder: Path) -> Iterator[str]:
    """Send every run folder in or below ``folder``; yields a line about each.

    Trainings go first: other stages add to their runs.

    Raises:
        TrackingError: there is no run folder, the server does not answer, or not all could be sent.
    """
    runs = [path.parent for path in folder.rglob(EVENTS) if read_run(path.parent) is not None]
    if not runs:
        raise TrackingError(f"no run folder (run.json, events.jsonl) in {folder}")
    connect()
    left = 0
    for run in sorted(runs, key=lambda run: ("training" in (read_run(run) or {}), run)):
        try:
            yield f"{run}: {_sync(run)}"
        except (Sg3flowError, OSError, ValueError) as error:  # of this run: the others go on
            left += 1
            yield f"{run}: {_left(run)}: {error}"
    if left:
        raise TrackingError(f"{left} of {len(runs)} runs are not sent completely; see above")


def _sync(run: Path) -> str:
    if _is_training(run):
        return "is training, and sends by itself"
    with sole_sender(run, tracking_uri()) as alone:
        if not alone:
            return "is sent by another process just now"
        delivery = Delivery(run)
        if delivery.is_complete():
            return "nothing to send"
        if delivery.is_deleted():
            return "was deleted on the server, and stays so"
        delivery.send()
        return "all sent"


def _left(run: Path) -> str:
    try:
        return f"{load_position(run, tracking_uri()).unsent()[0]} lines left"
    except OSError:
        return "not sent"


def _is_training(run: Path) -> bool:
    """Whether a process holds the lock of the training."""
    path = run.parent / ".lock"
    if not path.exists():
        return False
    # A shared lock, which filelock does not have: two that ask at once do not take each other for
    # a training, and it is enough to read the file, which may be another user's.
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
