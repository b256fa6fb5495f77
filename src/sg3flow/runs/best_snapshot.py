"""Whether two results may be compared at all."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import CheckpointError, MetricError, nearest
from sg3flow.files import sha256_file

# What a value means: values over other pictures or of another detector are other quantities.
_MEANING = {"reference_sha256": "the reference set", "detector_sha256": "the detector"}
# What it was measured under.
_CONDITIONS = {
    "num_generated": "the number of generated images",
    "num_reference": "the number of reference images",
    "resize": "the resizing",
    "seed": "the seed",
}


def differing_meaning(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In words, what makes two results of one metric different quantities; empty: nothing.

    Args:
        a, b: rows of ``reports/metrics.json``; a name that is missing counts as null.
    """
    return [words for key, words in _MEANING.items() if a.get(key) != b.get(key)]


def differing_conditions(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In words, everything that keeps two results from being compared."""
    return differing_meaning(a, b) + [
        words for key, words in _CONDITIONS.items() if a.get(key) != b.get(key)
    ]


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


def best_of_run(run_dir: Path, report: Path, metric: str = "") -> tuple[BestSnapshot, Path, str]:
    """The best snapshot of a training run: what was measured, its file, and the file's SHA-256.

    Raises:
        MetricError: as ``best_snapshot``, or the file is not the one that was measured.
        CheckpointError: the run has no such file.
    """
    best = best_snapshot(report, metric)
    path = run_dir / best.snapshot
    if not path.is_file():
        raise CheckpointError(f"{report} names {best.snapshot}, which is not in {run_dir}")
    digest = sha256_file(path)
    if any(row["network_sha256"] != digest for row in best.results.values()):
        raise MetricError(
            f"{report} was measured on another {best.snapshot}; run stages/evaluate.py again"
        )
    return best, path, digest


def best_snapshot(report: Path, metric: str = "") -> BestSnapshot:
    """Read the report of evaluate and choose by ``metric``; empty: by the one evaluate chose by.

    Raises:
        MetricError: no report, none of ours, one of a single network, or one without that metric.
    """
    content = _read(report)
    try:
        metric = metric or content["best"]["metric"]
        rows = [row for row in content["results"] if row["metric"] == metric]
        if not rows:
            known = sorted({row["metric"] for row in content["results"]})
            hint, listed = nearest(metric, known), ", ".join(known)
            raise MetricError(f"{report} has no metric '{metric}'{hint}; it has {listed}")
        if not all(_is_of_run(row) for row in content["results"]):
            raise MetricError(
                f"{report}: this report is of one network, not of a run; "
                "run stages/evaluate.py snapshots"
            )
        _require_one_meaning(report, rows)
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


def _require_one_meaning(report: Path, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        differing = differing_meaning(row, rows[0])
        if differing:
            raise MetricError(
                f"{report} holds {row['metric']} of {row['snapshot']} and of "
                f"{rows[0]['snapshot']}, which cannot be compared: {' and '.join(differing)} "
                "differ; run stages/evaluate.py again"
            )


def _is_of_run(row: dict[str, Any]) -> bool:
    """Whether a row is of a snapshot in a run's folder, not of a network from anywhere."""
    name, kimg = row["snapshot"], row["kimg"]
    if not isinstance(row["network_sha256"], str):
        raise TypeError("network_sha256 is no text")
    return isinstance(kimg, int) and isinstance(name, str) and Path(name).name == name


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
