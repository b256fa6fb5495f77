"""Run data of MLflow runs and registered versions, and the search for a run by any name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sg3flow.compare.folder_source import code_words, data_words, last_kimg, state_words, with_notes
from sg3flow.compare.run_data import (
    Measured,
    Point,
    RunData,
    Snapshot,
    canonical,
    is_row,
    read_measured,
)
from sg3flow.errors import DataError, TrackingError, nearest
from sg3flow.registry.version_terms import read_version_terms
from sg3flow.settings import Tag
from sg3flow.tracking.tracked_runs import (
    RegisteredVersion,
    TrackedRun,
    read_tracked_run,
    registered_version,
    training_id,
)

_STATES = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running or lost"}
# MLflow stores infinity as the largest float. The comparison below also excludes NaN.
_INFINITE = 1e300
_HEXADECIMAL = re.compile(r"[0-9a-f]{4,40}")


def read_tracked(asked: str, metric: str, folder: Path) -> RunData:
    """The data of an MLflow run.

    Args:
        asked: its ID, a prefix of the ID, or its name.
        metric: metric that selects the best snapshot; empty: that of the report.
        folder: temporary folder for downloaded files.

    Raises:
        TrackingError: no run or several runs match, or the server does not answer.
    """
    run = read_tracked_run(training_id(asked), folder)
    notes: list[str] = []
    measured = read_measured(run.report, metric, notes)
    return with_notes(_run_data(run, measured), notes)


def read_version(asked: str, metric: str, folder: Path) -> RunData:
    """The data of a registered version: its run, with the registered snapshot and metrics.

    Args:
        metric: has no effect on the snapshot of a version; a note says so unless it is empty.

    Raises:
        TrackingError: there is no such version, or the server does not answer.
    """
    version = registered_version(asked)
    kimg = version.tags.get(Tag.KIMG, "")
    age = float(kimg) if kimg.isdigit() else None
    snapshot = Snapshot(version.uri, age, "as registered")
    try:
        run = read_tracked_run(version.run_id, folder)
        data = _run_data(run, read_measured(run.report, "", []))
    except TrackingError as error:
        data = _without_run(version, f"its training run cannot be read: {error}")
    chosen = version.tags.get(Tag.METRIC, "")
    rows = {name: row for name, row in version.results.items() if is_row(row)}
    best = {name: rows[name] for name in sorted(rows, key=lambda name: name != chosen)}
    terms = dict(data.terms) | read_version_terms(version.uri)
    address = f"{version.uri}, run {version.run_id[:12]}" if version.run_id else version.uri
    data = replace(
        data, kind="registered model", address=address, snapshot=snapshot, best=best, terms=terms
    )
    notes = [] if best else ["no metrics were registered with it"]
    if metric and metric != chosen:
        notes.append(f"compared at the registered snapshot, not at the best by {metric}")
    return with_notes(data, notes)


def _without_run(version: RegisteredVersion, note: str) -> RunData:
    return RunData(
        kind="registered model",
        name=version.uri.removeprefix("models:/"),
        address=version.uri,
        state="registered",
        notes=(note,),
    )


def _run_data(run: TrackedRun, measured: Measured) -> RunData:
    params = dict(run.params)
    # Params are immutable in MLflow: if the training was extended, the tag has the new length.
    params["kimg"] = run.tags.get(Tag.KIMG, params.get("kimg", ""))
    curves = {name: _points(run, name) for name in run.histories if "/" in name}
    kimg = last_kimg({k: v for k, v in curves.items() if k.startswith(("Loss/", "Progress/"))})
    return RunData(
        kind="MLflow run",
        name=run.name,
        address=run.run_id,
        state=_state(run, kimg, params["kimg"]),
        params={f"train.{k}": canonical(v) for k, v in params.items() if v or k != "kimg"},
        environment=_environment(run, measured),
        curves=curves,
        trained=_trained(run, measured),
        results=measured.results,
        best=measured.best,
        terms=measured.terms,
        snapshot=_snapshot(run, measured),
        run_id=run.run_id,
    )


def _points(run: TrackedRun, name: str) -> list[Point]:
    values = run.histories[name]
    return [Point(step, value) for step, value in values if abs(value) < _INFINITE]


def _trained(run: TrackedRun, measured: Measured) -> dict[str, list[Point]]:
    """Metrics of the run that no report describes."""
    reported = {str(row["metric"]) for row in measured.results}
    names = [name for name in run.histories if "/" not in name and name not in reported]
    return {name: points for name in names if (points := _points(run, name))}


def _state(run: TrackedRun, kimg: float | None, wanted: str) -> str:
    words = state_words(kimg, float(wanted) if wanted.isdigit() else None)
    ended = _STATES.get(run.status)
    return f"{ended}; {words}" if ended else words


def _environment(run: TrackedRun, measured: Measured) -> dict[str, str]:
    tags = run.tags
    torch = {str(row["torch"]) for row in measured.results if row.get("torch")}
    measured_with = torch.pop() if len(torch) == 1 else None
    found: dict[str, Any] = {
        "data set": data_words(run.data),
        "code": code_words(tags.get("mlflow.source.git.commit"), tags.get(Tag.GIT_DIRTY)),
        "sg3flow": tags.get(f"{Tag.VERSION}sg3flow"),
        "torch": tags.get(f"{Tag.VERSION}torch") or measured_with,
        "ops": tags.get(Tag.OPS),
        "GPU": tags.get(Tag.GPU),
        "machine": tags.get(Tag.MACHINE, "").partition(",")[0],
        "CPU": tags.get(Tag.CPU, "").partition(",")[0],
    }
    return {name: str(value) for name, value in found.items() if value}


def _snapshot(run: TrackedRun, measured: Measured) -> Snapshot | None:
    by_file: Mapping[str, tuple[int, str]] = {f: (kimg, uri) for kimg, f, uri in run.snapshots}
    if measured.snapshot in by_file:
        kimg, uri = by_file[measured.snapshot]
        return Snapshot(uri, kimg, measured.chosen)
    if not run.snapshots:
        return None
    kimg, _, uri = run.snapshots[-1]
    return Snapshot(uri, kimg, "the last snapshot, as the best is unknown")


def find_all(names: Sequence[str], root: Path, metric: str, folder: Path) -> list[RunData]:
    """The data of each run, with comparable code commits; see ``find_run_data``."""
    from sg3flow.compare.revision_source import code_commit

    found = []
    for asked in names:
        data = find_run_data(asked, root, metric, folder)
        environment = dict(data.environment)
        if "code" in environment:
            environment["code"] = code_commit(root, environment["code"])
        found.append(replace(data, environment=environment))
    return found


def find_run_data(asked: str, root: Path, metric: str, folder: Path) -> RunData:
    """The data of the run that ``asked`` names.

    Tried in this order: a run folder; NAME@ALIAS, @ALIAS of the model in params.yaml, or
    models:/NAME/3; a DVC experiment; a git revision; an MLflow run by ID, prefix of an ID, or name.
    ``runs:/ID`` is always an MLflow run.

    Args:
        root: folder of the DVC project.
        metric: metric that selects the best snapshot; empty: that of each report.
        folder: temporary folder for downloaded files.

    Raises:
        DataError, TrackingError: no run or several runs match, or the source cannot be read.
    """
    from sg3flow.compare.folder_source import read_folder
    from sg3flow.compare.revision_source import find_revision, read_revision
    from sg3flow.runs.run_folder import is_run_folder
    from sg3flow.tracking.tracked_runs import split_version

    if not asked.strip():
        raise DataError("a RUN is empty; give a run ID, a run name, an experiment or a folder")
    if asked.startswith("@"):
        asked = f"{_registered_name(root)}{asked}"
    place = _place(asked)
    if is_run_folder(place) or ("/" in asked and place.is_dir()):
        return read_folder(place, metric)
    if split_version(asked) is not None and not _is_run_name(asked):
        return read_version(asked, metric, folder)
    revision = None if asked.startswith("runs:/") else find_revision(root, asked)
    if revision is not None and not _HEXADECIMAL.fullmatch(asked):
        return read_revision(root, revision, metric)
    try:
        data = read_tracked(asked, metric, folder)
    except TrackingError as error:
        if revision is not None:
            return read_revision(root, revision, metric)
        raise TrackingError(f"{_describe_failure(asked, root)}; {error}") from None
    if revision is not None:
        raise DataError(
            f"{asked} is a prefix of both a commit and an MLflow run; give more digits, or runs:/ID"
        )
    return data


def _place(asked: str) -> Path:
    try:
        return Path(asked).expanduser()
    except RuntimeError:  # ~nobody/x
        return Path(asked)


def _is_run_name(asked: str) -> bool:
    """Whether a training run has this exact name, although it looks like NAME@ALIAS."""
    from sg3flow.tracking.mlflow_store import connect, tracking_errors
    from sg3flow.tracking.tracked_runs import is_run_name

    store = connect()
    with tracking_errors(store.uri):
        return is_run_name(store, asked)


def _registered_name(root: Path) -> str:
    from sg3flow.params_file import read_params

    section = read_params(root / "params.yaml").get("register")
    name = section.get("name") if isinstance(section, dict) else None
    if not name:
        raise DataError("params.yaml has no model name (register.name); give NAME@ALIAS")
    return str(name)


def _describe_failure(asked: str, root: Path) -> str:
    from sg3flow.compare.revision_source import experiment_names

    hint = nearest(asked, experiment_names(root))
    folder = "folder of a run" if _place(asked).is_dir() else "folder"
    return f"'{asked}' is no {folder}, no DVC experiment{hint} and no git revision"
