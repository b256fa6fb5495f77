"""What is known of a run that is compared, wherever it was found."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import standard_error
from sg3flow.runs.best_snapshot import FORMAT, best_snapshot


@dataclass(frozen=True)
class Point:
    """A value at an age of the run.

    Attributes:
        kimg: thousands of real images seen in training.
        value: what was measured.
        error: its standard error; None: not known.
    """

    kimg: float
    value: float
    error: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """The snapshot whose pictures are shown.

    Attributes:
        source: what ``load_networks`` takes.
        kimg: its age; None: not known.
        chosen: why this one, in words.
    """

    source: str
    kimg: float | None
    chosen: str


@dataclass(frozen=True)
class RunData:
    """A run as found. What an older version did not record is left out, never an error.

    Attributes:
        kind: what that turned out to be: ``MLflow run``, ``DVC experiment``, ...
        name: of the run.
        address: its id, commit or path.
        state: how far it is, in words.
        params: settings as text, by section and name: ``train.gamma``.
        environment: what else decides the result, as text: ``torch``, ``data set``, ...
        curves: statistics of the training over its age, by their names in ``stats.jsonl``.
        trained: metrics measured during training, without what it takes to compare them.
        results: rows of ``reports/metrics.json``.
        best: of them, those of the snapshot that is judged, by metric.
        snapshot: the one whose pictures are shown; None: there is none.
        notes: what is missing, in words.
        run_id: of its run in MLflow, as far as that is known here; empty: it is not.
    """

    kind: str
    name: str
    address: str
    state: str
    params: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    trained: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    results: Sequence[Mapping[str, Any]] = ()
    best: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    notes: Sequence[str] = ()
    run_id: str = ""


def letter(index: int) -> str:
    """The letter by which a comparison calls its run number ``index``: A, B, ..."""
    return chr(ord("A") + index)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def canonical(value: Any) -> str:
    """A setting as text: equal for equal values, whether they come as values or as texts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(canonical, value))
    if value is None:
        return "none"
    return _of_text(str(value).strip())


def _of_text(text: str) -> str:
    if text in ("True", "False", "None"):
        return text.lower()
    if len(text) < 30 and _NUMBER.fullmatch(text):
        return _number(float(text) if re.search("[.eE]", text) else int(text))
    if text[:1] in "[(" and text[-1:] in "])" and text:
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
        return canonical(listed) if isinstance(listed, list | tuple) else text
    return text


def _number(value: float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return repr(value)


def value_text(row: Mapping[str, Any]) -> str:
    """A result with its standard error: ``4.272 ± 0.18``; as many digits as the error deserves."""
    error = standard_error(row)
    return f"{row['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")


@dataclass(frozen=True)
class Measured:
    """A report as far as it can be used.

    Attributes:
        results: its rows.
        best: rows of the snapshot that is judged, by metric.
        snapshot: that snapshot's file name; empty: none is known to be the best.
        chosen: why that one, in words.
        kimg: its age.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    snapshot: str = ""
    chosen: str = ""
    kimg: int | None = None


def read_measured(report: Path | None, metric: str, notes: list[str]) -> Measured:
    """Read a report; what is wrong with it becomes a note.

    Args:
        report: ``reports/metrics.json``, or a copy of it; None: there is none.
        metric: chooses the best snapshot; empty: the one the report was made with.
        notes: takes what is wrong.
    """
    if report is None:
        notes.append("not measured: no reports/metrics.json; run stages/evaluate.py")
        return Measured()
    results = _rows(report)
    try:
        best = best_snapshot(report, metric)
    except MetricError as error:
        notes.append(f"its best snapshot is not known: {error}")
        return Measured(results)
    chosen = f"best by {best.metric}"
    rows = {name: row for name, row in best.results.items() if is_row(row)}
    # The metric that chose comes first: it is the one the headline is about.
    rows = {name: rows[name] for name in sorted(rows, key=lambda name: name != best.metric)}
    return Measured(results, rows, best.snapshot, chosen, best.kimg)


def _rows(report: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    rows = content.get("results") if isinstance(content, dict) else None
    if not isinstance(rows, list) or content.get("format") != FORMAT:
        return []
    return [row for row in rows if is_row(row)]


def is_row(row: Any) -> bool:
    """Whether a row has at least a metric and a number."""
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("metric"), str)
        and isinstance(row.get("value"), int | float)
        and not isinstance(row["value"], bool)
    )
