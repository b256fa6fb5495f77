"""The data of a run for a comparison, independent of its source."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.errors import MetricError
from sg3flow.metrics.error_terms import Terms, beside, read_terms
from sg3flow.metrics.estimates import standard_error
from sg3flow.metrics.names import unit_of
from sg3flow.runs.best_snapshot import best_snapshot, read_report

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Point:
    """A value at a point of the training.

    Attributes:
        kimg: thousands of real images seen in training.
        value: what was measured.
        error: its standard error; None: unknown.
    """

    kimg: float
    value: float
    error: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """The snapshot whose images are shown.

    Attributes:
        source: source for ``load_networks``.
        kimg: its kimg; None: unknown.
        chosen: why this snapshot was selected.
    """

    source: str
    kimg: float | None
    chosen: str


@dataclass(frozen=True)
class RunData:
    """The data of one run. Values that an older version did not record are left out.

    Attributes:
        kind: type of the source: ``MLflow run``, ``DVC experiment``, ...
        name: name of the run.
        address: its ID, commit or path.
        state: its progress, as text.
        params: settings as text, by section and name: ``train.gamma``.
        environment: other conditions of the result, as text: ``torch``, ``data set``, ...
        curves: statistics of the training over kimg, by their names in ``stats.jsonl``.
        trained: metrics measured during training, which cannot be compared reliably.
        results: rows of ``reports/evaluation.json``.
        best: the rows of the best snapshot, by metric.
        snapshot: the snapshot whose images are shown; None: there is none.
        notes: sentences about missing data.
        run_id: ID of its MLflow run; empty: unknown.
        terms: error terms of its results by digest, as far as they are known.
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
    terms: Terms = field(default_factory=dict)


def letter(index: int) -> str:
    """The letter of run number ``index`` in a comparison: A, B, ..."""
    return chr(ord("A") + index)


def canonical(value: Any) -> str:
    """A setting as text; equal values give equal text, whether given as values or as text."""
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
    """A result with its standard error, for example ``4.272 ± 0.18``."""
    error, unit = standard_error(row), unit_of(str(row.get("metric", "")))
    text = f"{row['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
    return f"{text} {unit}" if unit else text


@dataclass(frozen=True)
class Measured:
    """The usable content of a report.

    Attributes:
        results: its rows.
        best: the rows of the best snapshot, by metric.
        snapshot: file name of the best snapshot; empty: unknown.
        chosen: why it was selected.
        kimg: its kimg.
        terms: error terms of the rows by digest.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    snapshot: str = ""
    chosen: str = ""
    kimg: int | None = None
    terms: Terms = field(default_factory=dict)


def read_measured(
    report: Path | None, metric: str, notes: list[str], terms: Path | None = None
) -> Measured:
    """Read a report; problems become notes.

    Args:
        report: ``reports/evaluation.json`` or a copy of it; None: there is none.
        metric: metric that selects the best snapshot; empty: that of the report.
        notes: problems are appended here.
        terms: file of the error terms; None: the one beside the report.
    """
    if report is None:
        notes.append("not measured: there is no reports/evaluation.json; run stages/evaluate.py")
        return Measured()
    results, known = _rows(report), read_terms(terms or beside(_report_itself(report)))
    try:
        best = best_snapshot(report, metric)
    except MetricError as error:
        notes.append(f"the best snapshot is unknown: {error}")
        return Measured(results, terms=known)
    chosen = f"best by {best.metric}"
    rows = {name: row for name, row in best.results.items() if is_row(row)}
    # The metric that selected the best comes first: the headline is about it.
    rows = {name: rows[name] for name in sorted(rows, key=lambda name: name != best.metric)}
    return Measured(results, rows, best.snapshot, chosen, best.kimg, known)


def _report_itself(path: Path) -> Path:
    """The report that a summary leads to."""
    try:
        return read_report(path)[0]
    except MetricError:
        return path


def _rows(report: Path) -> list[dict[str, Any]]:
    try:
        rows = read_report(report)[1].get("results")
    except MetricError:
        return []
    return [row for row in rows if is_row(row)] if isinstance(rows, list) else []


def is_row(row: Any) -> bool:
    """Whether a row has at least a metric and a numeric value."""
    return (
        isinstance(row, Mapping)
        and isinstance(row.get("metric"), str)
        and isinstance(row.get("value"), int | float)
        and not isinstance(row["value"], bool)
    )
