"""One line of a journal as MLflow has it; sending a line twice is sending it once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import TrainingMissing
from sg3flow.tracking.datasets import log_dataset
from sg3flow.tracking.models import log_snapshot_model, snapshot_model
from sg3flow.tracking.pictures import log_picture
from sg3flow.tracking.store import Store, time_to_upload


@dataclass(frozen=True)
class Target:
    """Where the lines of a journal go.

    Attributes:
        run_id: the run of the journal itself.
        training_id: the training run it belongs to; None: the server does not have it (yet).
        training_name: what to call that where it is missed.
    """

    store: Store
    folder: Path
    run_id: str
    training_id: str | None
    training_name: str

    def of(self, row: Mapping[str, Any]) -> str:
        """The run a line is meant for.

        Raises:
            TrainingMissing: it is the training run, and that is not there.
        """
        if row.get("on") != "training":
            return self.run_id
        if self.training_id is None:
            raise TrainingMissing(
                f"the training run {self.training_name} is not on the server yet: run `sg3flow "
                "sync FOLDER` with its folder (runs/train, say)"
            )
        return self.training_id


def send_event(target: Target, row: Mapping[str, Any]) -> None:
    """Tell the server what a line of ``events.jsonl`` says.

    Raises:
        TrainingMissing: the training run it is about is not there.
        Exception: whatever the client raises.
    """
    sender = _SENDERS.get(row["kind"])
    if sender is not None:  # begin and end make the run's status, which is sent by itself
        sender(target, row)


def _tags(target: Target, row: Mapping[str, Any]) -> None:
    from mlflow.entities import RunTag

    tags = [RunTag(key, str(value)) for key, value in row["values"].items()]
    target.store.client.log_batch(target.of(row), tags=tags)


def _parent(target: Target, row: Mapping[str, Any]) -> None:
    parent_id = target.of({"on": "training"})
    target.store.client.set_tag(target.run_id, "mlflow.parentRunId", parent_id)


def _metric(target: Target, row: Mapping[str, Any]) -> None:
    run_id, kimg = target.of(row), row["nimg"] // 1000
    snapshot = row["file"]
    model_id = snapshot_model(target.store, run_id, snapshot, kimg) if snapshot else None
    target.store.client.log_metric(
        run_id, row["key"], row["value"], timestamp=_time_ms(row), step=kimg, model_id=model_id
    )


def _image(target: Target, row: Mapping[str, Any]) -> None:
    path, run_id = target.folder / row["file"], target.of(row)
    if path.is_file():
        with time_to_upload(path):
            kimg = row["nimg"] // 1000
            log_picture(target.store.client, run_id, path, row["key"], kimg, _time_ms(row))


def _snapshot(target: Target, row: Mapping[str, Any]) -> None:
    path = target.folder / row["file"]
    if path.is_file():
        log_snapshot_model(target.store, target.of(row), path, row["nimg"] // 1000)


def _artifact(target: Target, row: Mapping[str, Any]) -> None:
    path, run_id = target.folder / row["file"], target.of(row)
    if path.is_file():  # else somebody tidied up: there is nothing to send any more
        with time_to_upload(path):
            target.store.client.log_artifact(run_id, str(path), row["key"] or None)


def _dataset(target: Target, row: Mapping[str, Any]) -> None:
    log_dataset(target.store.client, target.of(row), **row["values"])


def _time_ms(row: Mapping[str, Any]) -> int:
    # The time in the file is part of a point's identity: a replay adds nothing.
    return int(row.get("timestamp", 0) * 1000)


_SENDERS = {
    "tags": _tags,
    "parent": _parent,
    "metric": _metric,
    "image": _image,
    "snapshot": _snapshot,
    "artifact": _artifact,
    "dataset": _dataset,
}
