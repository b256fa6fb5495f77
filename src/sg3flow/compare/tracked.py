"""MLflow runs and registered versions as facts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sg3flow.compare.facts import Facts, Point, Snapshot
from sg3flow.compare.folder import with_notes
from sg3flow.compare.measured import Measured, is_row, read_measured
from sg3flow.compare.training_files import code_words, data_words, last_kimg, state_words
from sg3flow.compare.values import canonical
from sg3flow.errors import TrackingError
from sg3flow.tracking.runs import (
    RegisteredVersion,
    TrackedRun,
    read_tracked_run,
    registered_version,
    training_id,
)

_STATES = {"FAILED": "failed", "KILLED": "stopped", "RUNNING": "running or lost"}
# MLflow keeps an infinite value as the greatest number there is. NaN is not below it either.
_INFINITE = 1e300


def read_tracked(asked: str, metric: str, folder: Path) -> Facts:
    """The facts of an MLflow run.

    Args:
        asked: its id, the beginning of it, or its name.
        metric: chooses the best snapshot; empty: the one its report was made with.
        folder: where files may be put until the comparison is written.

    Raises:
        TrackingError: no run or several are called so, or the server does not answer.
    """
    run = read_tracked_run(training_id(asked), folder)
    notes: list[str] = []
    measured = read_measured(run.report, metric, notes)
    return with_notes(_facts(run, measured), notes)


def read_version(asked: str, metric: str, folder: Path) -> Facts:
    """The facts of a registered version: those of its run, judged and drawn as registered.

    Args:
        metric: a note says that it chooses no other snapshot of a version; empty: none is wanted.

    Raises:
        TrackingError: there is no such version, or the server does not answer.
    """
    version = registered_version(asked)
    kimg = version.tags.get("sg3flow.kimg", "")
    age = float(kimg) if kimg.isdigit() else None
    snapshot = Snapshot(version.uri, age, "as registered")
    try:
        run = read_tracked_run(version.run_id, folder)
        facts = _facts(run, read_measured(run.report, "", []))
    except TrackingError as error:
        facts = _without_run(version, f"the run that made it cannot be read: {error}")
    chosen = version.tags.get("sg3flow.metric", "")
    rows = {name: row for name, row in version.results.items() if is_row(row)}
    best = {name: rows[name] for name in sorted(rows, key=lambda name: name != chosen)}
    address = f"{version.uri}, run {version.run_id[:12]}" if version.run_id else version.uri
    facts = replace(facts, kind="registered model", address=address, snapshot=snapshot, best=best)
    notes = [] if best else ["no measurements were registered with it"]
    if metric and metric != chosen:
        notes.append(f"judged at the snapshot that was registered, not at the best by {metric}")
    return with_notes(facts, notes)


def _without_run(version: RegisteredVersion, note: str) -> Facts:
    return Facts(
        kind="registered model",
        name=version.uri.removeprefix("models:/"),
        address=version.uri,
        state="registered",
        notes=(note,),
    )


def _facts(run: TrackedRun, measured: Measured) -> Facts:
    params = dict(run.params)
    # A parameter cannot be changed: of a run that was made longer, the tag has the present length.
    params["kimg"] = run.tags.get("sg3flow.kimg", params.get("kimg", ""))
    curves = {name: _points(run, name) for name in run.histories if "/" in name}
    kimg = last_kimg({k: v for k, v in curves.items() if k.startswith(("Loss/", "Progress/"))})
    return Facts(
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
        snapshot=_snapshot(run, measured),
        run_id=run.run_id,
    )


def _points(run: TrackedRun, name: str) -> list[Point]:
    values = run.histories[name]
    return [Point(step, value) for step, value in values if abs(value) < _INFINITE]


def _trained(run: TrackedRun, measured: Measured) -> dict[str, list[Point]]:
    """Metrics without a report that says what they were measured against."""
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
    measured_by = torch.pop() if len(torch) == 1 else None
    found: dict[str, Any] = {
        "data set": data_words(run.data),
        "code": code_words(tags.get("mlflow.source.git.commit"), tags.get("sg3flow.git_dirty")),
        "torch": tags.get("sg3flow.version.torch") or measured_by,
        "ops": tags.get("sg3flow.ops"),
        "GPU": tags.get("sg3flow.gpu"),
        "machine": tags.get("sg3flow.machine", "").partition(",")[0],
        "CPU": tags.get("sg3flow.cpu", "").partition(",")[0],
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
    return Snapshot(uri, kimg, "the last one; none is known to be the best")
