"""Training runs read back from MLflow, by id, by the beginning of an id, or by name."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.errors import TrackingError, nearest
from sg3flow.tracking.store import Store, connect, tracking_errors

_VERSION = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
_ALIAS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)@([A-Za-z][A-Za-z0-9._-]*)")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ID_START = re.compile(r"[0-9a-f]{4,31}")
_PAGE = 1000
_RESULT_TAG = "sg3flow.result."

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


def is_version(text: str) -> bool:
    """Whether a text is of the form of a registered version: NAME@ALIAS or models:/NAME/3."""
    return bool(_VERSION.fullmatch(text) or _ALIAS.fullmatch(text))


def find_version(text: str) -> RegisteredVersion:
    """The registered version that a text names.

    Raises:
        TrackingError: there is no such model, version or alias, or the server does not answer.
    """
    store = connect()
    named, plain = _VERSION.fullmatch(text), _ALIAS.fullmatch(text)
    assert named or plain
    name = named[1] if named else plain[1] if plain else ""
    number = named[2] if named else None
    alias = named[3] if named else plain[2] if plain else None
    with tracking_errors(store.uri), _known(f"the registry has no {text}"):
        if number is None:
            found = store.client.get_model_version_by_alias(name, alias)
        else:
            found = store.client.get_model_version(name, number)
    tags = {str(key): str(value) for key, value in found.tags.items()}
    rows = {k.removeprefix(_RESULT_TAG): _json(v) for k, v in tags.items() if _RESULT_TAG in k}
    results = {name: row for name, row in rows.items() if isinstance(row, dict)}
    uri = f"models:/{name}/{found.version}"
    return RegisteredVersion(uri, str(found.run_id or ""), tags, results)


def find_run_id(text: str) -> str:
    """The id of the one training run that a text names.

    Raises:
        TrackingError: no run or several are called so, it is no training, or the server does not
            answer.
    """
    store = connect()
    with tracking_errors(store.uri):
        text = text.removeprefix("runs:/")
        if _RUN_ID.fullmatch(text):
            with _known(f"MLflow has no run {text}"):
                return _training_only(store.client.get_run(text), text)
        infos = list(_training_runs(store))
    named = [run for run in infos if run.info.run_name == text]
    begun = [r for r in infos if _ID_START.fullmatch(text) and r.info.run_id.startswith(text)]
    found = named or begun
    if len(found) == 1:
        return str(found[0].info.run_id)
    if found:
        ids = ", ".join(run.info.run_id[:12] for run in found[:6])
        how = "are called" if named else "have ids that begin with"
        raise TrackingError(f"{len(found)} training runs {how} {text}; name one by its id: {ids}")
    hint = nearest(text, [str(run.info.run_name) for run in infos])
    raise TrackingError(f"MLflow has no training run '{text}'{hint}")


def read_run(run_id: str, folder: Path) -> TrackedRun:
    """Everything that is compared of a training run.

    Args:
        folder: where a copy of its report may be put.

    Raises:
        TrackingError: the run is gone, or the server does not answer.
    """
    store = connect()
    with tracking_errors(store.uri):
        with _known(f"MLflow has no run {run_id}"):
            run = store.client.get_run(run_id)
        names = [name for name in run.data.metrics if not _LEFT_OUT.fullmatch(name)]
        return TrackedRun(
            run_id=run_id,
            name=str(run.info.run_name),
            status=str(run.info.status),
            params={str(k): str(v) for k, v in run.data.params.items()},
            tags={str(k): str(v) for k, v in run.data.tags.items()},
            histories={name: _history(store, run_id, name) for name in sorted(names)},
            data=_data(run),
            report=_report(store, run_id, folder),
            snapshots=_snapshots(store, run),
        )


def _training_only(run: Any, text: str) -> str:
    stage = run.data.tags.get("sg3flow.stage", "train")
    if stage != "train":
        parent = run.data.tags.get("mlflow.parentRunId")
        hint = f"; its training is {parent}" if parent else ""
        raise TrackingError(f"run {text} is of stage {stage}, not a training{hint}")
    return str(run.info.run_id)


@contextmanager
def _known(message: str) -> Iterator[None]:
    """Say so in one line where MLflow does not know what was asked for."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise TrackingError(message) from None
        raise


def _training_runs(store: Store) -> Iterator[Any]:
    wanted, token = "tags.`sg3flow.stage` = 'train'", None
    while True:
        page = store.client.search_runs(
            [store.experiment_id], wanted, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


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


def _report(store: Store, run_id: str, folder: Path) -> Path | None:
    """The report of the last evaluation that belongs to a training run."""
    wanted = f"tags.`sg3flow.stage` = 'evaluate' AND tags.`mlflow.parentRunId` = '{run_id}'"
    order = ["attributes.start_time DESC"]
    for run in store.client.search_runs([store.experiment_id], wanted, order_by=order):
        names = {item.path for item in store.client.list_artifacts(run.info.run_id)}
        if "metrics.json" in names:
            place = tempfile.mkdtemp(dir=folder)
            return Path(store.client.download_artifacts(run.info.run_id, "metrics.json", place))
    return None


def _snapshots(store: Store, run: Any) -> list[tuple[int, str, str]]:
    found, token = [], None
    while True:
        page = store.client.search_logged_models(
            [run.info.experiment_id],
            f"source_run_id = '{run.info.run_id}'",
            max_results=50,
            page_token=token,
        )
        for model in page:
            file, kimg = model.tags.get("sg3flow.snapshot"), model.params.get("kimg", "")
            if file and kimg.isdigit():
                found.append((int(kimg), str(file), f"models:/{model.model_id}"))
        token = page.token
        if not token:
            return sorted(found)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
