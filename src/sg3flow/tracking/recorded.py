"""What the tracking server holds of a training, by any name a person has for it."""

from pathlib import Path
from typing import Any

from sg3flow.errors import DataError
from sg3flow.provenance.files import DIFF, PACKAGES, PROJECT_FILES, PROVENANCE
from sg3flow.reproduction.record import Record, read_record
from sg3flow.tracking.finding import find_training
from sg3flow.tracking.models import SHA256_TAG, snapshot_models
from sg3flow.tracking.store import Store, tracking_errors
from sg3flow.tracking.versions import open_registry

_FILES = ("run.json", PROVENANCE, DIFF, PACKAGES, *PROJECT_FILES)


def find_record(run: str, scratch: Path) -> Record:
    """The record of a training: of a run folder where it stands, of any other name from the server.

    Args:
        run: a run folder, or what ``download_record`` takes.
        scratch: a folder to download into.

    Raises:
        TrackingError, DataError: as ``download_record``.
    """
    folder = Path(run).expanduser()
    if (folder / "run.json").is_file():
        return read_record(folder.resolve(), origin=run)
    if folder.is_dir():
        raise DataError(f"{run} is no run folder: it holds no run.json")
    return download_record(run, scratch)


def download_record(run: str, folder: Path) -> Record:
    """Find a training and bring its record into ``folder``.

    Args:
        run: any name that ``find_training`` takes.

    Raises:
        TrackingError: there is no such training, or several; or the server does not answer.
        DataError: the run has no record.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        found = find_training(store, run)
        run_id = found.info.run_id
        present = {artifact.path for artifact in store.client.list_artifacts(run_id)}
        for name in _FILES:
            if name in present:
                store.client.download_artifacts(run_id, name, str(folder))
        digests = _digests(store, found)
    origin = f"run {found.info.run_name} ({run_id})"
    return read_record(folder, digests, origin)


def _digests(store: Store, run: Any) -> dict[str, str]:
    tags = [model.tags for model in snapshot_models(store, run)]
    return {tag["sg3flow.snapshot"]: tag[SHA256_TAG] for tag in tags if SHA256_TAG in tag}
