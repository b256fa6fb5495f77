"""The best snapshot, as ``reports/metrics.json`` tells."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import MetricError, nearest

FORMAT = "sg3flow-metrics-1"


@dataclass(frozen=True)
class BestSnapshot:
    """A snapshot and what was measured on it.

    Attributes:
        snapshot: file name in the training folder.
        kimg: thousands of real images it had seen.
        metric: the metric it is best in, and its ``value`` there.
        results: every measurement of this snapshot, rows of the report, by metric name.
    """

    snapshot: str
    kimg: int
    metric: str
    value: float
    results: dict[str, dict[str, Any]]


def best_snapshot(report: Path, metric: str = "") -> BestSnapshot:
    """Read the report of evaluate and choose by ``metric``; empty: by the one evaluate chose by.

    Raises:
        MetricError: no report, none of ours, or one without that metric.
    """
    content = _read(report)
    try:
        metric = metric or content["best"]["metric"]
        rows = [row for row in content["results"] if row["metric"] == metric]
        if not rows:
            known = sorted({row["metric"] for row in content["results"]})
            hint, listed = nearest(metric, known), ", ".join(known)
            raise MetricError(f"{report} has no metric '{metric}'{hint}; it has {listed}")
        better = max if rows[0]["higher_is_better"] else min
        # Of equal values the earlier snapshot wins, as in evaluate.
        best = better(sorted(rows, key=lambda row: int(row["kimg"])), key=lambda row: row["value"])
        of_snapshot = [row for row in content["results"] if row["snapshot"] == best["snapshot"]]
        return BestSnapshot(
            snapshot=str(best["snapshot"]),
            kimg=int(best["kimg"]),
            metric=metric,
            value=float(best["value"]),
            results={str(row["metric"]): dict(row) for row in of_snapshot},
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise MetricError(f"{report} is damaged ({reason}); run stages/evaluate.py again") from None


def _read(report: Path) -> dict[str, Any]:
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MetricError(f"no report {report}; run stages/evaluate.py first") from None
    except (OSError, ValueError) as error:
        raise MetricError(f"cannot read {report}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise MetricError(f"{report} is no report of evaluate (expected format {FORMAT})")
    return content
