"""Results of metrics, and the report, table and terminal output made of them."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sg3flow.errors import MetricError, nearest
from sg3flow.files import atomic_write, write_json, write_text
from sg3flow.metrics.error_terms import (
    MOST_BYTES,
    Stored,
    digest_of,
    stored_form,
    write_terms,
)
from sg3flow.metrics.estimates import Estimate
from sg3flow.metrics.image_metrics import (
    covariance_divisor,
    error_rule,
    reference_count,
    reference_limit,
)
from sg3flow.metrics.names import Metric, unit_of
from sg3flow.metrics.reference_set import EVERYTHING, Reference
from sg3flow.output_checks import begins_with, check_replaceable, json_marked, png_marked
from sg3flow.runs.best_snapshot import FORMAT, differing_meaning, is_summary


@dataclass(frozen=True)
class MetricResult:
    """One value, and everything needed to compare it with another one.

    Attributes:
        snapshot: file name of the snapshot, or the source of the network.
        kimg: thousands of real images seen in training; None for a network of unknown age.
        metric: name with the count, ``fid50k_full``; a metric with several values adds a suffix,
            ``pr50k3_full_recall``.
        value: a distance, fraction, score or ratio in dB.
        standard_error: standard error over generated samples; None: too few images.
            ``error_rule`` says how it was estimated.
        num_generated, num_reference: number of images on each side.
        detector, detector_sha256, resize: describe the features; None for equivariance.
        reference_sha256: digest of the content of the packed set; like ``num_reference``, None for
            metrics without a reference.
        reference_flips: whether the flipped images belong to the reference, too.
        reference_limit: how many reference images the metric takes at most; None: all.
        network_sha256: digest of the network's file.
        torch: version of torch.
        held_out_sha256: digest of the held-out images; None: none were given or needed.
        covariance_divisor: ``N`` or ``N - 1``; None for metrics without covariances.
        error_terms: digest of ``terms``; None: the error is unknown.
        terms: as in ``Estimate``; not part of a row.
    """

    snapshot: str
    kimg: int | None
    metric: str
    value: float
    standard_error: float | None
    error_rule: str | None
    num_generated: int
    num_reference: int | None
    detector: str | None
    detector_sha256: str | None
    reference_sha256: str | None
    network_sha256: str
    resize: str | None
    seed: int
    higher_is_better: bool
    torch: str
    reference_flips: bool | None = None
    reference_limit: int | None = None
    covariance_divisor: str | None = None
    held_out_sha256: str | None = None
    error_terms: str | None = None
    terms: Stored | None = dataclasses.field(default=None, compare=False, repr=False)

    def row(self) -> dict[str, Any]:
        """The result as a row of a report."""
        names = (field.name for field in dataclasses.fields(self) if field.name != "terms")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Subject:
    """What was measured: its name, its kimg if known, and the digest of its content."""

    name: str
    kimg: int | None
    sha256: str


class Detector(Protocol):
    """Description of the network that extracts features."""

    name: str
    digest: str
    resize: str


def build_results(
    metric: Metric,
    estimates: list[Estimate],
    subject: Subject,
    detector: Detector | None,
    reference: Reference | None,
    seed: int,
    held_out: Reference | None = None,
) -> list[MetricResult]:
    """The rows of one metric, one per output; ``reference`` is None for metrics without one."""
    kept = [None if each.terms is None else stored_form(each.terms) for each in estimates]
    return [
        MetricResult(
            snapshot=subject.name,
            kimg=subject.kimg,
            metric=output,
            value=estimate.value,
            standard_error=estimate.standard_error,
            error_rule=error_rule(metric, output) if estimate.standard_error is not None else None,
            num_generated=metric.num_images,
            num_reference=reference_count(metric, reference) if reference else None,
            detector=detector.name if detector else None,
            detector_sha256=detector.digest if detector else None,
            reference_sha256=reference.pictures.digest if reference else None,
            network_sha256=subject.sha256,
            resize=detector.resize if detector else None,
            seed=seed,
            higher_is_better=higher,
            torch=torch.__version__,
            reference_flips=reference.flips if reference else None,
            reference_limit=_limit(metric) if reference else None,
            covariance_divisor=covariance_divisor(metric),
            held_out_sha256=held_out.pictures.digest if held_out else None,
            error_terms=None if terms is None else digest_of(terms),
            terms=terms,
        )
        for (output, higher), estimate, terms in zip(
            metric.outputs.items(), estimates, kept, strict=True
        )
    ]


def _limit(metric: Metric) -> int | None:
    limit = reference_limit(metric)
    return limit if limit < EVERYTHING else None


_MARK = "sg3flow evaluate"


def check_outputs(
    report: Path,
    table: Path | None = None,
    chart: Path | None = None,
    pairs: Sequence[Path] = (),
    summary: Path | None = None,
) -> None:
    """Check that the outputs of an evaluation may be written.

    Args:
        pairs: pictures of the closest pairs, which go beside the report.
        summary: values of the best snapshot; it may replace a report of version 0.2, which had its
            name.

    Raises:
        DataError: at one of the paths is something that an evaluation has not written.
    """
    check_replaceable(report, _is_report_or_summary, "a metrics report", "--report")
    if summary is not None:
        check_replaceable(summary, _is_report_or_summary, "a metrics summary", "--summary")
    if table is not None:
        check_replaceable(table, begins_with(b"kimg,"), "a metrics table", "--table")
    if chart is not None:
        check_replaceable(chart, png_marked(_MARK), "a metrics chart", "--chart")
    for path in pairs:
        check_replaceable(path, png_marked(_MARK), "a picture of closest pairs", "--report")


def _is_report_or_summary(path: Path) -> bool:
    if json_marked(FORMAT)(path):
        return True
    try:
        return path.is_file() and is_summary(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError):
        return False


def best_metric(names: Sequence[str], best_by: str) -> str:
    """The metric that selects the best snapshot: ``best_by``, or the first if it is empty.

    Raises:
        MetricError: ``best_by`` is not among the metrics.
    """
    if best_by and best_by not in names:
        raise MetricError(
            f"best_by '{best_by[:60]}' is not among the metrics {', '.join(names)}"
            f"{nearest(best_by, names)}"
        )
    return best_by or names[0]


def build_report(
    results: Sequence[MetricResult], *, reference_sha256: str, num_images: int, best_by: str
) -> dict[str, Any]:
    """The report of an evaluation: the best snapshot, a table by kimg, and all results in full.

    Args:
        results: results of all snapshots.
        reference_sha256, num_images: describe the packed set.
        best_by: metric that selects the best; on ties, the snapshot with the least training.
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
        "results": [result.row() for result in results],
    }


def build_summary(results: Sequence[MetricResult], best: MetricResult) -> dict[str, float]:
    """The values of the best snapshot: its kimg, the metric that selected it, then the others.

    One flat object with short keys, so that ``dvc metrics`` and ``dvc exp show`` have one narrow
    column for each.

    Args:
        best: the result that ``find_best`` selected, of a snapshot with a known kimg.
    """
    assert best.kimg is not None
    others = {row.metric: row.value for row in results if row.snapshot == best.snapshot}
    return {"kimg": best.kimg, best.metric: best.value} | others


def find_best(results: Sequence[MetricResult], best_by: str) -> MetricResult:
    """The best result of one metric; on ties, the first.

    Raises:
        MetricError: some results have another reference or detector.
    """
    chosen = [result for result in results if result.metric == best_by]
    for result in chosen:
        differing = _differing(result, chosen[0])
        if differing:
            raise MetricError(
                f"{best_by} of {result.snapshot} cannot be compared with that of "
                f"{chosen[0].snapshot}: {' and '.join(differing)} differ; evaluate both again"
            )
    sign = -1 if chosen[0].higher_is_better else 1
    return min(chosen, key=lambda result: sign * result.value)


def _label(result: MetricResult) -> str:
    return result.snapshot if result.kimg is None else f"{result.kimg:06d}"


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write an image (PNG), replacing an earlier one."""
    mark = PngInfo()
    mark.add_text("Software", _MARK)
    with atomic_write(path) as stream:
        picture.save(stream, format="PNG", pnginfo=mark)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report, replacing an earlier one."""
    write_json(path, report)


def write_error_terms(path: Path, results: Sequence[MetricResult]) -> None:
    """Write the error terms of results, by the names of snapshot and metric.

    If those of all snapshots would take more than 64 MiB, only those of the best snapshot by each
    metric are kept. At 50,000 images, that is the case with more than 335 values.
    """
    known = [result for result in results if result.terms is not None]
    if sum(result.terms.nbytes for result in known if result.terms is not None) > MOST_BYTES:
        names = dict.fromkeys(result.metric for result in known)
        best = {find_best(results, name).snapshot for name in names}
        known = [result for result in known if result.snapshot in best]
    write_terms(
        path,
        {f"{each.snapshot}/{each.metric}": each.terms for each in known if each.terms is not None},
    )


def write_table(path: Path, results: Sequence[MetricResult], best_by: str) -> None:
    """Write a table (CSV), replacing an earlier one.

    One row per snapshot: ``kimg``, and for each metric its standard error (empty: unknown) and
    value. The metric that selects the best comes last: ``dvc plots`` draws that column.
    """
    metrics = list(dict.fromkeys(result.metric for result in results))
    metrics.sort(key=lambda name: name == best_by)
    rows: dict[int | None, dict[str, MetricResult]] = {}
    for result in results:
        rows.setdefault(result.kimg, {})[result.metric] = result
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kimg", *(column for name in metrics for column in (f"{name}_error", name))])
    for kimg, row in rows.items():
        pairs = [(row[name].standard_error, row[name].value) for name in metrics]
        writer.writerow([kimg, *(number for pair in pairs for number in pair)])
    write_text(path, text.getvalue())


def format_table(results: Sequence[MetricResult], best_by: str) -> str:
    """Results as lines of text for a terminal; a star marks the best.

    An exclamation mark marks results with another reference or detector than the first result of
    the metric; a line below says what differs.
    """
    first: dict[str, MetricResult] = {}
    differing = [_differing(result, first.setdefault(result.metric, result)) for result in results]
    alike = [result for result, words in zip(results, differing, strict=True) if not words]
    best, width = find_best(alike, best_by), max(len(result.metric) for result in results)
    lines, notes = [], []
    for result, words in zip(results, differing, strict=True):
        mark = "  *" if result is best else "  !" if words else ""
        lines.append(f"{_label(result)}  {result.metric:<{width}}  {_shown(result)}{mark}")
        if words:
            reason = " and ".join(words)
            notes.append(f"! {_label(result)} {result.metric}: not comparable, {reason} differ")
    return "\n".join(lines + notes)


def _differing(a: MetricResult, b: MetricResult) -> list[str]:
    return differing_meaning(a.row(), b.row())


def _shown(result: MetricResult) -> str:
    error = result.standard_error
    unit = unit_of(result.metric)
    words = f"{result.value:.4f}" + (f" ± {error:.2g}" if error is not None else "")
    return f"{words} {unit}" if unit else words
