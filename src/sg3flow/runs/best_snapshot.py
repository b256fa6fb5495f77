"""The best snapshot in a report of evaluate, and whether two results can be compared.

``evaluate`` writes two JSON files. The report, ``reports/evaluation.json``, has every result with
its standard error and conditions. The summary, ``reports/metrics.json``, has only the values of the
best snapshot, for DVC's tables: ``{"kimg": 2, "fd_random500_full": 2.7, …}``. Where a report is
read, a summary may be given: the report is then the file beside it. Up to version 0.2,
``reports/metrics.json`` was the report itself.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import CheckpointError, MetricError, nearest
from sg3flow.files import sha256_file

# What a value means: with other images or another detector it is another quantity.
_MEANING = {"reference_sha256": "the reference set", "detector_sha256": "the detector"}
# The same, but rows of version 0.2 and before lack it: they had no metric where it can differ.
_LATER_MEANING = {
    "reference_flips": "the flips of the reference set",
    "reference_limit": "the limit of the reference set",
    "resize": "the resizing",
    "covariance_divisor": "the divisor of the covariance",
    "held_out_sha256": "the held-out images",
}
# The conditions of a measurement.
_CONDITIONS = {
    "num_generated": "the number of generated images",
    "num_reference": "the number of reference images",
    "seed": "the seed",
}


def differing_meaning(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What makes two results of one metric different quantities, as text; empty: nothing.

    Args:
        a, b: rows of ``reports/evaluation.json``; a missing name counts as null.
    """
    later = {key: words for key, words in _LATER_MEANING.items() if key in a and key in b}
    return [words for key, words in (_MEANING | later).items() if a.get(key) != b.get(key)]


def differing_conditions(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Everything that prevents a comparison of two results, as text."""
    return differing_meaning(a, b) + [
        words for key, words in _CONDITIONS.items() if a.get(key) != b.get(key)
    ]


FORMAT = "sg3flow-metrics-1"
REPORT_NAME, SUMMARY_NAME = "evaluation.json", "metrics.json"
_METRIC_KEY = re.compile(r"[a-z]+(_[a-z]+)*_?[0-9]\w*")  # each carries its sample count


@dataclass(frozen=True)
class BestSnapshot:
    """A snapshot and its results.

    Attributes:
        snapshot: file name in the training folder.
        kimg: thousands of real images shown to D.
        metric: the metric that it is best in, with its ``value``.
        results: all rows of this snapshot in the report, by metric name.
    """

    snapshot: str
    kimg: int
    metric: str
    value: float
    results: dict[str, dict[str, Any]]


def best_of_run(run_dir: Path, report: Path, metric: str = "") -> tuple[BestSnapshot, Path, str]:
    """The best snapshot of a training run, its file, and the SHA-256 of the file.

    Raises:
        MetricError: as ``best_snapshot``, or the file has changed since it was measured.
        CheckpointError: the run does not have the file.
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
    """Read the report of evaluate and choose by ``metric``; empty: by the metric of the report.

    Raises:
        MetricError: the report is missing or damaged, is of a single network, or lacks that metric.
    """
    report, content = read_report(report)
    try:
        metric = metric or content["best"]["metric"]
        rows = [row for row in content["results"] if row["metric"] == metric]
        if not rows:
            known = sorted({row["metric"] for row in content["results"]})
            hint, listed = nearest(metric, known), ", ".join(known)
            raise MetricError(f"{report} has no metric '{metric[:60]}'{hint}; it has {listed}")
        if not all(_is_of_run(row) for row in content["results"]):
            raise MetricError(
                f"{report}: this report is of a single network, not of a run; "
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
    """Whether a row is of a snapshot in a run folder, not of another network."""
    name, kimg = row["snapshot"], row["kimg"]
    if not isinstance(row["network_sha256"], str):
        raise TypeError("network_sha256 is not a text")
    return isinstance(kimg, int) and isinstance(name, str) and Path(name).name == name


def is_summary(content: Any) -> bool:
    """Whether the content of a JSON file is a summary: ``kimg`` and the values of metrics."""
    if not isinstance(content, dict) or type(content.get("kimg")) is not int:
        return False
    metrics = {key: value for key, value in content.items() if key != "kimg"}
    return bool(metrics) and all(
        _METRIC_KEY.fullmatch(key) and type(value) in (int, float) for key, value in metrics.items()
    )


def read_report(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read a report, or the report beside a summary; returns its path, too.

    Raises:
        MetricError: there is none, it is damaged, or the summary is of another evaluation.
    """
    content = _read(path)
    if is_summary(content):
        summary, beside = content, path.with_name(REPORT_NAME)
        if not beside.is_file():
            raise MetricError(
                f"{path} has only the values of the best snapshot, and there is no {REPORT_NAME} "
                "beside it; run stages/evaluate.py again"
            )
        content = _read(beside)
        if _is_report(content) and not _is_of(summary, content):
            raise MetricError(
                f"{path} and {beside} are of different evaluations; run dvc checkout, or "
                "stages/evaluate.py again"
            )
        path = beside
    if not _is_report(content):
        raise MetricError(f"{path} is not a report of evaluate (expected format {FORMAT})")
    return path, content


def _is_of(summary: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether the values of a summary are those of a report's best snapshot."""
    best, rows = report.get("best"), report.get("results")
    if not isinstance(best, dict) or not isinstance(rows, list):
        return True  # the report is damaged, and that is what its reader says
    values = {"kimg": best.get("kimg")}
    values |= {
        str(row.get("metric")): row.get("value")
        for row in rows
        if isinstance(row, dict) and row.get("snapshot") == best.get("snapshot")
    }
    return values == summary


def _is_report(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MetricError(f"no report {path}; run stages/evaluate.py first") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MetricError(f"cannot read {path}: {' '.join(str(error).split())}") from None
