"""Training runs and registered versions read back from MLflow."""

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.tracking.finding import find_training, get_run, split_version
from sg3flow.tracking.models import snapshot_models
from sg3flow.tracking.store import Store, tracking_errors
from sg3flow.tracking.versions import find_version, open_registry, results_of

# Statistics of the machine, a request each: nobody compares runs by them.
_LEFT_OUT = re.compile(r"(Resources|Repairs|system)/.*|Timing/(?!sec_per_kimg$).*")


@dataclass(frozen=True)
class TrackedRun:
    """A training run as MLflow has it.

    Attributes:
        params, tags: as texts.
        histories: (step, value) by metric, in order of the steps.
        data: the data set: name, digest (its first 16 digits), and what its profile says.
        report: a copy of the report of its last evaluation; None: it has none.
        snapshots: (kimg, file name, model URI), the oldest first.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    histories: dict[str, list[tuple[float, float]]]
    data: dict[str, Any]
    report: Path | None
    snapshots: list[tuple[int, str, str]]


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes:
        uri: ``models:/NAME/VERSION``.
        run_id: of the run that made it; empty: not recorded.
        tags: as texts.
        results: its rows of ``reports/metrics.json``, by metric.
    """

    uri: str
    run_id: str
    tags: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


def registered_version(text: str) -> RegisteredVersion:
    """The registered version that a text names, as ``split_version`` takes it.

    Raises:
        TrackingError, ConfigError: there is no such model, version or alias, or the server does
            not answer.
    """
    named = split_version(text)
    assert named is not None
    store = open_registry()
    with tracking_errors(store.uri):
        found = find_version(store, *named)
        tags = {str(key): str(value) for key, value in found.tags.items()}
        uri = f"models:/{named[0]}/{found.version}"
        return RegisteredVersion(uri, str(found.run_id or ""), tags, results_of(found))


def training_id(text: str) -> str:
    """The id of the one training run that a text names, as ``find_training`` takes it.

    Raises:
        TrackingError: none or several are called so, or the server does not answer.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        return str(find_training(store, text).info.run_id)


def read_tracked_run(run_id: str, folder: Path) -> TrackedRun:
    """Everything that is compared of a training run.

    Args:
        folder: where a copy of its report may be put.

    Raises:
        TrackingError: the run is gone, or the server does not answer.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        run = get_run(store, run_id)
        names = [name for name in run.data.metrics if not _LEFT_OUT.fullmatch(name)]
        return TrackedRun(
            run_id=run_id,
            name=str(run.info.run_name),
            status=str(run.info.status),
            params={str(k): str(v) for k, v in run.data.params.items()},
            tags={str(k): str(v) for k, v in run.data.tags.items()},
            histories={name: _history(store, run_id, name) for name in sorted(names)},
            data=_data(run),
            report=_report(store, run, folder),
            snapshots=_snapshots(store, run),
        )


def _history(store: Store, run_id: str, name: str) -> list[tuple[float, float]]:
    # Of several values at a step, say of an evaluation that ran twice, the last one holds.
    points = store.client.get_metric_history(run_id, name)
    by_step = {p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}
    return [(float(step), float(value)) for step, value in by_step.items()]


def _data(run: Any) -> dict[str, Any]:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if not inputs:
        return {}
    dataset = inputs[0].dataset
    profile = _json(dataset.profile or "{}")
    return {**(profile or {}), "name": dataset.name, "digest": dataset.digest}


def _report(store: Store, run: Any, folder: Path) -> Path | None:
    """The report of the last evaluation that belongs to a training run."""
    parent = run.info.run_id
    wanted = f"tags.`sg3flow.stage` = 'evaluate' AND tags.`mlflow.parentRunId` = '{parent}'"
    order = ["attributes.start_time DESC"]
    for child in store.client.search_runs([run.info.experiment_id], wanted, order_by=order):
        names = {item.path for item in store.client.list_artifacts(child.info.run_id)}
        if "metrics.json" in names:
            place = tempfile.mkdtemp(dir=folder)
            return Path(store.client.download_artifacts(child.info.run_id, "metrics.json", place))
    return None


def _snapshots(store: Store, run: Any) -> list[tuple[int, str, str]]:
    found = []
    for model in snapshot_models(store, run):
        file, kimg = model.tags.get("sg3flow.snapshot"), model.params.get("kimg", "")
        if file and kimg.isdigit():
            found.append((int(kimg), str(file), f"models:/{model.model_id}"))
    return sorted(found)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
