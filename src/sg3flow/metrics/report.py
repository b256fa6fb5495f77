"""What an evaluation leaves on disk: a JSON report and a table for plots."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError, MetricError, nearest
from sg3flow.files import write_json, write_text
from sg3flow.metrics.best import FORMAT
from sg3flow.metrics.results import MetricResult


def check_outputs(report: Path, table: Path | None = None) -> None:
    """Refuse places where something stands that an evaluation has not written.

    Raises:
        DataError: such a place.
    """
    if report.exists() and not _is_report(report):
        raise DataError(f"{report} exists and is no metrics report; move it or name another file")
    if table is not None and table.exists() and not _is_table(table):
        raise DataError(f"{table} exists and is no metrics table; move it or name another file")


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _is_table(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(5) == b"kimg,"


def best_metric(names: Sequence[str], best_by: str) -> str:
    """The metric that picks the best snapshot: ``best_by``, or the first if that is empty.

    Raises:
        MetricError: ``best_by`` is not among the metrics.
    """
    if best_by and best_by not in names:
        raise MetricError(
            f"best_by '{best_by}' is not among the metrics {', '.join(names)}"
            f"{nearest(best_by, names)}"
        )
    return best_by or names[0]


def build_report(
    results: Sequence[MetricResult], *, reference_sha256: str, num_images: int, best_by: str
) -> dict[str, Any]:
    """The report of an evaluation: the best snapshot, a table by age, and every result in full.

    Args:
        results: of all snapshots.
        reference_sha256, num_images: of the packed set.
        best_by: metric that picks the best; of equals, the snapshot with the least training.
    """
    by_snapshot: dict[str, dict[str, float]] = {}
    for result in results:
        by_snapshot.setdefault(_label(result), {})[result.metric] = result.value
    best = find_best(results, best_by)
    return {
        "format": FORMAT,
        "reference": {"sha256": reference_sha256, "num_images": num_images},
        "best": {key: getattr(best, key) for key in ("snapshot", "kimg", "metric", "value")},
        "snapshots": by_snapshot,
        "results": [dataclasses.asdict(result) for result in results],
    }


def find_best(results: Sequence[MetricResult], best_by: str) -> MetricResult:
    """The best result of one metric; of equals, the first."""
    chosen = [result for result in results if result.metric == best_by]
    sign = -1 if chosen[0].higher_is_better else 1
    return min(chosen, key=lambda result: sign * result.value)


def _label(result: MetricResult) -> str:
    return result.snapshot if result.kimg is None else f"{result.kimg:06d}"


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Replace an earlier report."""
    write_json(path, report)


def write_table(path: Path, results: Sequence[MetricResult]) -> None:
    """Replace an earlier table: one row a snapshot, ``kimg`` and a column a metric (CSV)."""
    metrics = list(dict.fromkeys(result.metric for result in results))
    rows: dict[int | None, dict[str, float]] = {}
    for result in results:
        rows.setdefault(result.kimg, {})[result.metric] = result.value
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kimg", *metrics])
    writer.writerows([kimg, *(row[name] for name in metrics)] for kimg, row in rows.items())
    write_text(path, text.getvalue())


def format_table(results: Sequence[MetricResult], best_by: str) -> str:
    """Results as lines of text for a terminal, the best marked by a star."""
    best = find_best(results, best_by)
    width = max(len(result.metric) for result in results)
    lines = [
        f"{_label(result)}  {result.metric:<{width}}  {result.value:.4f}"
        f"{' dB' if result.higher_is_better else ''}{'  *' if result is best else ''}"
        for result in results
    ]
    return "\n".join(lines)
