"""A run folder as facts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sg3flow.compare.facts import Facts, Snapshot
from sg3flow.compare.measured import Measured, read_measured
from sg3flow.compare.training_files import (
    TrainingFiles,
    data_words,
    last_kimg,
    state_words,
    train_params,
)
from sg3flow.errors import DataError
from sg3flow.files import sha256_file
from sg3flow.metrics.verdict import NOT_MEASURED
from sg3flow.tracking.position import load_position
from sg3flow.tracking.store import tracking_uri

_MARKS = ("run.json", "training_options.json", "stats.jsonl")


def is_run_folder(folder: Path) -> bool:
    """Whether a folder shows a training."""
    return any((folder / name).is_file() for name in _MARKS)


def read_folder(folder: Path, metric: str) -> Facts:
    """The facts of a run folder.

    Args:
        metric: chooses the best snapshot; empty: the one its report was made with.

    Raises:
        DataError: it is no folder of a training.
    """
    if not is_run_folder(folder):
        raise DataError(
            f"{folder} is no run folder: it holds none of {', '.join(_MARKS)}; name the folder "
            "with the snapshots, runs/train say"
        )
    training = TrainingFiles({path.name: path for path in folder.iterdir() if path.is_file()})
    notes: list[str] = []
    measured = read_measured(_report_beside(folder), metric, notes)
    measured = _own(measured, folder, notes)
    facts = facts_of_files(training, measured, "run folder", str(folder.resolve()))
    run_id = load_position(folder, tracking_uri()).run_id  # as noted here: no server is asked
    return with_notes(replace(facts, run_id=run_id), notes)


def facts_of_files(
    training: TrainingFiles,
    measured: Measured,
    kind: str,
    address: str,
    name: str = "",
) -> Facts:
    """What a training's files and its report say; names as in ``Facts``."""
    described, curves = training.described(), training.curves()
    params = described.get("params")
    wanted = params.get("kimg") if isinstance(params, dict) else None
    snapshots = training.snapshots()
    return Facts(
        kind=kind,
        name=name or str(described.get("name") or Path(address).name),
        address=address,
        state=state_words(last_kimg(curves), wanted),
        params=train_params(described),
        environment=_file_environment(training, described, measured),
        curves=curves,
        trained=training.trained_metrics(),
        results=measured.results,
        best=measured.best,
        snapshot=_snapshot(measured, snapshots),
        notes=tuple(training.notes),
    )


def with_notes(facts: Facts, notes: list[str]) -> Facts:
    """The same facts with more notes."""
    return replace(facts, notes=(*facts.notes, *notes))


def _file_environment(
    training: TrainingFiles, described: dict[str, Any], measured: Measured
) -> dict[str, str]:
    """What besides the settings decided the result, as far as the files tell."""
    environment = {"data set": data_words(described.get("training_set"))}
    environment |= training.device_and_ops() | training.provenance()
    torch = {str(row["torch"]) for row in measured.results if row.get("torch")}
    if len(torch) == 1 and "torch" not in environment:
        environment["torch"] = torch.pop()
    return {name: value for name, value in environment.items() if value}


def _report_beside(folder: Path) -> Path | None:
    """The report in the folder, or that of the project whose ``runs/train`` this is."""
    places = [folder / "metrics.json", folder.resolve().parent.parent / "reports/metrics.json"]
    return next((path for path in places if path.is_file()), None)


def _own(measured: Measured, folder: Path, notes: list[str]) -> Measured:
    """The report, if it was measured on this folder's snapshots: another training may have."""
    if not measured.results:
        return measured
    # Where no best one is known, the last one that was measured tells whose report it is.
    rows = list(measured.best.values()) or measured.results[-1:]
    path = folder / Path(str(rows[0].get("snapshot"))).name
    if path.is_file() and {row.get("network_sha256") for row in rows} == {sha256_file(path)}:
        return measured
    notes.append(
        f"{NOT_MEASURED}: the report beside it is of other snapshots; run stages/evaluate.py"
    )
    return Measured()


def _snapshot(measured: Measured, snapshots: dict[int, Path]) -> Snapshot | None:
    if measured.kimg in snapshots:
        return Snapshot(str(snapshots[measured.kimg]), measured.kimg, measured.chosen)
    if not snapshots:
        return None
    kimg, path = list(snapshots.items())[-1]
    return Snapshot(str(path), kimg, "the last one; none is known to be the best")
