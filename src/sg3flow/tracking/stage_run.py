"""What a stage tells MLflow: remembered while the stage works, sent when it ends.

The work of a stage never waits for the tracking server, and never fails because of it: if the
server cannot be reached at the end, a warning says so and the results on disk stand.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sg3flow.errors import Sg3flowError
from sg3flow.tracking.pictures import log_picture
from sg3flow.tracking.provenance import provenance_tags


@dataclasses.dataclass
class StageRun:
    """Things to send to MLflow at the end of a stage; every method only remembers."""

    stage: str
    params: dict[str, str]
    training_run: Path | None = None
    own_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    artifacts: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    own_tags: dict[str, str] = dataclasses.field(default_factory=dict)
    datasets: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    on_training: list[tuple[dict[str, float], int, str | None]] = dataclasses.field(
        default_factory=list
    )
    training_images: list[tuple[Path, str, int]] = dataclasses.field(default_factory=list)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics of this stage's own run."""
        self.own_metrics.update({name: float(value) for name, value in values.items()})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file that stands when the stage ends, for the run's artifacts."""
        self.artifacts.append((path, folder))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags of this stage's own run."""
        self.own_tags.update(values)

    def dataset(self, *, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data set this stage made or read."""
        self.datasets.append(
            {"name": name, "digest": digest, "source": source, "profile": dict(profile)}
        )

    def training_metrics(
        self, values: Mapping[str, float], kimg: int, snapshot: str | None = None
    ) -> None:
        """Metrics of the training run at ``kimg``, and of that snapshot's LoggedModel."""
        numbers = {name: float(value) for name, value in values.items()}
        self.on_training.append((numbers, kimg, snapshot))

    def training_image(self, path: Path, key: str, kimg: int) -> None:
        """A picture of the training run at ``kimg``, under the step slider of ``key``."""
        self.training_images.append((path, key, kimg))


@contextmanager
def tracked_stage(stage: str, config: Any, training_run: Path | None = None) -> Iterator[StageRun]:
    """Track one execution of a stage: its settings at least, and what the block remembers.

    Args:
        stage: name of the stage and of the run.
        config: the stage's settings, a dataclass.
        training_run: the training folder whose run this one belongs to, if any.
    """
    run = StageRun(stage, flat_params(config), training_run)
    start = time.time()
    try:
        yield run
    except BaseException as error:
        run.tags({"sg3flow.error": " ".join(str(error).split())[:500]})
        _send_or_warn(run, start, "FAILED")
        raise
    _send_or_warn(run, start, "FINISHED")


def flat_params(config: Any) -> dict[str, str]:
    """The settings of a stage as MLflow takes them: text by name; lists joined by commas."""
    values = dataclasses.asdict(config)
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
    }


def _send_or_warn(run: StageRun, start: float, status: str) -> None:
    try:
        send(run, start, status)
    except Sg3flowError as error:
        results = "the results on disk are complete" if status == "FINISHED" else "the stage failed"
        print(f"warning: not tracked: {error}; {results}", file=sys.stderr)


def send(run: StageRun, start: float, status: str) -> str:
    """Write a stage's run to the tracking store; returns the run's id.

    Raises:
        TrackingError: the store cannot be used.
    """
    from sg3flow.tracking.store import connect, tracking_errors, training_run_id

    store = connect()
    with tracking_errors(store.uri):
        training_id = training_run_id(run.training_run) if run.training_run else None
        # `mlflow run` opens a run of its own for the entry point: ours stands below it.
        parent_id = training_id or os.environ.get("MLFLOW_RUN_ID")
        tags = provenance_tags() | {"sg3flow.stage": run.stage} | run.own_tags
        if parent_id:
            tags["mlflow.parentRunId"] = parent_id
        created = store.client.create_run(
            store.experiment_id, int(start * 1000), tags, run_name=run.stage
        )
        run_id = str(created.info.run_id)
        _send_own(store.client, run_id, run)
        if training_id:
            _send_to_training(store, training_id, run)
        store.client.set_terminated(run_id, status)
    return run_id


def _send_own(client: Any, run_id: str, run: StageRun) -> None:
    from mlflow.entities import Metric, Param

    from sg3flow.tracking.datasets import log_dataset

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in run.own_metrics.items()]
    params = [Param(name, value) for name, value in run.params.items()]
    client.log_batch(run_id, metrics=metrics, params=params)
    for dataset in run.datasets:
        log_dataset(client, run_id, **dataset)
    for path, folder in run.artifacts:
        if path.is_file():
            client.log_artifact(run_id, str(path), folder or None)


def _send_to_training(store: Any, training_id: str, run: StageRun) -> None:
    from sg3flow.tracking.models import find_snapshot_model

    for values, kimg, snapshot in run.on_training:
        model_id = find_snapshot_model(store, training_id, snapshot) if snapshot else None
        for name, value in values.items():
            store.client.log_metric(training_id, name, value, step=kimg, model_id=model_id)
    for path, key, kimg in run.training_images:
        log_picture(store.client, training_id, path, key, kimg)
