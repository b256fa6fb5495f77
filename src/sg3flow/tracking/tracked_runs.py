"""Finds trainings and registered versions in MLflow by any of their names, and reads them."""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError, TrackingError, nearest
from sg3flow.metrics.error_terms import TERMS_NAME
from sg3flow.runs.best_snapshot import REPORT_NAME, SUMMARY_NAME
from sg3flow.runs.run_folder import DIFF, PACKAGES, PROVENANCE, RUN
from sg3flow.runs.run_names import typed_name
from sg3flow.runs.worktree import Record, read_record
from sg3flow.settings import PROJECT_FILES, Tag
from sg3flow.tracking.event_upload import snapshot_models
from sg3flow.tracking.metric_names import recorded_name
from sg3flow.tracking.mlflow_store import (
    Store,
    experiments_of,
    find_version,
    open_registry,
    results_of,
    tracking_errors,
)

_VERSION = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
_ALIAS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)@([A-Za-z][A-Za-z0-9._-]*)")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ID_START = re.compile(r"[0-9a-f]{4,31}")
_PAGE = 1000
_MOST_SHOWN = 6


def split_version(text: str) -> tuple[str, str] | None:
    """Name and number or ``@alias`` of NAME@ALIAS, models:/NAME/3, models:/NAME@ALIAS, or None."""
    if found := _VERSION.fullmatch(text):
        return found[1], found[2] or f"@{found[3]}"
    if found := _ALIAS.fullmatch(text):
        return found[1], f"@{found[2]}"
    return None


def find_training(store: Store, text: str) -> Any:
    """The MLflow run of the training that a text names.

    Args:
        text: a registered version as ``split_version`` takes it, unless a run has that name; a
            run id with or without ``runs:/``, or its first digits; a run's name; the uid in
            ``run.json``; the name of a DVC experiment. The run of a later stage means its
            training.

    Raises:
        TrackingError: no run or several runs match, or the run belongs to no training.
        ConfigError: a model has no such version.
    """
    version = split_version(text)
    if version is not None and not is_run_name(store, text):
        run_id = find_version(store, *version).run_id
        if not run_id:
            raise TrackingError(f"{text} has no record of the run that made it")
        return _training_of(store, get_run(store, run_id))
    text = text.removeprefix("runs:/")
    is_id = _RUN_ID.fullmatch(text) is not None
    if is_id and (run := find_run_by_id(store, text)) is not None:
        return _training_of(store, run)
    trainings = list(_trainings(store))
    for meaning, found in _candidates(trainings, text):
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(run.info.run_id[:12] for run in found[:_MOST_SHOWN])
            raise TrackingError(
                f"{len(found)} trainings {meaning} {text}; name one by its id: {ids}"
            )
    if is_id:
        raise TrackingError(f"MLflow has no run {text}")
    hint = nearest(text, [str(run.info.run_name) for run in trainings])
    raise TrackingError(
        f"MLflow has no training '{text}'{hint}; give a run id, a run's name, NAME@champion, "
        "models:/NAME/VERSION or a run folder"
    )


def _candidates(trainings: list[Any], text: str) -> Iterator[tuple[str, list[Any]]]:
    """Each meaning of the text, and the trainings that match it."""
    yield "have the uid", [run for run in trainings if run.data.tags.get(Tag.UID) == text]
    yield "are called", [run for run in trainings if run.info.run_name == text]
    typed = typed_name(text)
    yield "are called", [run for run in trainings if typed_name(str(run.info.run_name)) == typed]
    yield (
        "are of the experiment",
        [run for run in trainings if run.data.tags.get(Tag.DVC_EXP) == text],
    )
    if _ID_START.fullmatch(text):
        yield (
            "have ids that begin with",
            [run for run in trainings if run.info.run_id.startswith(text)],
        )


def is_run_name(store: Store, text: str) -> bool:
    """Whether a training has that name: a run may be called ``cats@night``."""
    if _ALIAS.fullmatch(text) is None:
        return False
    wanted = f"tags.`{Tag.STAGE}` = 'train' AND attributes.run_name = '{text}'"
    return bool(store.client.search_runs(experiments_of(store), wanted, max_results=1))


def get_run(store: Store, run_id: str) -> Any:
    """A run by its full id.

    Raises:
        TrackingError: MLflow does not have it.
    """
    run = find_run_by_id(store, run_id)
    if run is None:
        raise TrackingError(f"MLflow has no run {run_id}")
    return run


def find_run_by_id(store: Store, run_id: str) -> Any | None:
    """A run by its full id, also a deleted one; None: MLflow does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _training_of(store: Store, run: Any) -> Any:
    """The run itself; for the run of a later stage, its training."""
    if run.data.tags.get(Tag.STAGE, "train") == "train":
        return run
    parent = run.data.tags.get("mlflow.parentRunId")
    training = get_run(store, parent) if parent else None
    if training is None or training.data.tags.get(Tag.STAGE, "train") != "train":
        raise TrackingError(f"run {run.info.run_name} ({run.info.run_id}) belongs to no training")
    return training


def _trainings(store: Store) -> Iterator[Any]:
    experiments = experiments_of(store)
    wanted, token = f"tags.`{Tag.STAGE}` = 'train'", None
    while True:
        page = store.client.search_runs(experiments, wanted, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


_FILES = (RUN, PROVENANCE, DIFF, PACKAGES, *PROJECT_FILES)


def find_record(run: str, scratch: Path) -> Record:
    """The record of a training, from a run folder or, for any other name, from the server.

    Args:
        run: a run folder, or what ``download_record`` takes.
        scratch: a folder to download into.

    Raises:
        TrackingError, DataError: as ``download_record``.
    """
    folder = Path(run).expanduser()
    if (folder / RUN).is_file():
        return read_record(folder.resolve(), origin=run)
    if folder.is_dir():
        raise DataError(f"{run} is not a run folder: it has no {RUN}")
    return download_record(run, scratch)


def download_record(run: str, folder: Path) -> Record:
    """Find a training and download its record into ``folder``.

    Args:
        run: any name that ``find_training`` takes.

    Raises:
        TrackingError: no training or several match, or the server does not answer.
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
    return {tag[Tag.SNAPSHOT]: tag[Tag.SHA256] for tag in tags if Tag.SHA256 in tag}


# Statistics of the machine: they cost a request each, and no comparison shows them.
_LEFT_OUT = re.compile(r"(Resources|Repairs|system)/.*|Timing/(?!sec_per_kimg$).*")


@dataclass(frozen=True)
class TrackedRun:
    """A training run as MLflow has it.

    Attributes:
        params, tags: as text.
        histories: (step, value) by metric, in order of the steps.
        data: the data set: name, first 16 digits of the digest, and its profile.
        report: a copy of the report of its last evaluation; None: there is none.
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
        tags: as text.
        results: its rows of ``reports/evaluation.json``, by metric.
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
    """The id of the training run that a text names, as ``find_training`` takes it.

    Raises:
        TrackingError: no training or several match, or the server does not answer.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        return str(find_training(store, text).info.run_id)


def read_tracked_run(run_id: str, folder: Path) -> TrackedRun:
    """All data of a training run that a comparison uses.

    Args:
        folder: for a copy of its report.

    Raises:
        TrackingError: the run is gone, or the server does not answer.
    """
    store = open_registry()
    with tracking_errors(store.uri):
        run = get_run(store, run_id)
        names: dict[str, list[str]] = {}  # in MLflow, by the name in the files
        for name in sorted(run.data.metrics):
            names.setdefault(recorded_name(name), []).append(name)
        return TrackedRun(
            run_id=run_id,
            name=str(run.info.run_name),
            status=str(run.info.status),
            params={str(k): str(v) for k, v in run.data.params.items()},
            tags={str(k): str(v) for k, v in run.data.tags.items()},
            histories={
                name: _history(store, run_id, names[name])
                for name in sorted(names)
                if not _LEFT_OUT.fullmatch(name)
            },
            data=_data(run),
            report=_report(store, run, folder),
            snapshots=_snapshots(store, run),
        )


def _history(store: Store, run_id: str, names: list[str]) -> list[tuple[float, float]]:
    # Of several values at a step, for example after a second evaluation, the last one counts.
    points = [p for name in names for p in store.client.get_metric_history(run_id, name)]
    by_step = {p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}
    return [(float(step), float(value)) for step, value in by_step.items()]


def _data(run: Any) -> dict[str, Any]:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if not inputs:
        return {}
    dataset = inputs[0].dataset
    profile = _json(dataset.profile or "{}")
    known = {"name": dataset.name} | (profile or {})
    # Run folders know the set by the name of its file.
    return known | {"name": known.get("packed", dataset.name), "digest": dataset.digest}


def _report(store: Store, run: Any, folder: Path) -> Path | None:
    """The report of the last evaluation that belongs to a training run."""
    parent = run.info.run_id
    wanted = f"tags.`{Tag.STAGE}` = 'evaluate' AND tags.`mlflow.parentRunId` = '{parent}'"
    order = ["attributes.start_time DESC"]
    for child in store.client.search_runs(experiments_of(store), wanted, order_by=order):
        names = {item.path for item in store.client.list_artifacts(child.info.run_id)}
        # Evaluations up to version 0.2 have their report under the name of the summary.
        for name in sorted(names & {REPORT_NAME, SUMMARY_NAME}):
            place = tempfile.mkdtemp(dir=folder)
            if TERMS_NAME in names:  # beside the report, where its readers look for it
                store.client.download_artifacts(child.info.run_id, TERMS_NAME, place)
            return Path(store.client.download_artifacts(child.info.run_id, name, place))
    return None


def _snapshots(store: Store, run: Any) -> list[tuple[int, str, str]]:
    found = []
    for model in snapshot_models(store, run):
        file, kimg = model.tags.get(Tag.SNAPSHOT), model.params.get("kimg", "")
        if file and kimg.isdigit() and Tag.PRUNED not in model.tags:
            found.append((int(kimg), str(file), f"models:/{model.model_id}"))
    return sorted(found)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
