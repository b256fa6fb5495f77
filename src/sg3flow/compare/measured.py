"""What a metrics report says of a run, and which of its snapshots is shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sg3flow.errors import MetricError
from sg3flow.metrics.best import FORMAT, best_snapshot


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
