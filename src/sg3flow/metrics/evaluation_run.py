"""Metrics of every snapshot while training goes on, without a trace in the training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import distributed

from sg3flow.config import EvaluateConfig, EvaluateImagesConfig, EvaluateNetworkConfig
from sg3flow.data.archive import PackedSet
from sg3flow.distributed import ALONE, Ranks
from sg3flow.errors import MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.evaluation import (
    PictureSet,
    compare_sets,
    evaluate_network,
    evaluate_snapshots,
    find_snapshots,
)
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.names import Metric, parse_metrics, parse_set_metrics
from sg3flow.metrics.report import (
    MetricResult,
    best_metric,
    build_report,
    check_outputs,
    find_best,
    format_table,
    write_picture,
    write_report,
    write_table,
)
from sg3flow.resources import pick_device

NONE = "none"


class SnapshotMetrics:
    """Measures G_ema of each snapshot; all processes of a training share the work.

    Attributes:
        names: of the metrics.
    """

    def __init__(self, evaluator: Evaluator, names: tuple[str, ...]) -> None:
        self.evaluator, self.names = evaluator, names

    def __call__(self, G_ema: Any, snapshot: Path | None, nimg: int) -> Mapping[str, float]:
        """Values by name.

        Args:
            snapshot: the file; None in all processes but the first.
        """
        name = snapshot.name if snapshot is not None else ""
        digest = sha256_file(snapshot) if snapshot is not None else ""
        results = self.evaluator.measure(G_ema, name, nimg // 1000, digest)
        return {result.metric: result.value for result in results}


def snapshot_metrics(
    names: tuple[str, ...], packed: PackedSet, *, batch: int, device: torch.device
) -> SnapshotMetrics | None:
    """What measures the snapshots of a training, ready to go; None for ``none``.

    Raises:
        MetricError: an unknown metric, or weights of its network that cannot be had.
        DataError: a picture cannot be read.
    """
    check_names(names)
    if names == (NONE,):
        return None
    ranks = ALONE
    if distributed.is_initialized():
        # The others wait while the first one does the sums, however long that takes.
        ranks = Ranks.of_group(distributed.new_group(backend="gloo", timeout=timedelta(days=1)))
    evaluator = Evaluator(packed, names, seed=0, batch=batch, device=device, ranks=ranks)
    evaluator.prepare()
    return SnapshotMetrics(evaluator, names)


def check_names(names: tuple[str, ...]) -> None:
    """Check what ``train.metrics`` names.

    Raises:
        MetricError: an unknown metric, or ``none`` beside others.
    """
    if NONE in names and names != (NONE,):
        raise MetricError(f"train.metrics: 'none' stands alone, not in {', '.join(names)}")
    if names != (NONE,):
        parse_metrics(names)


DrawChart = Callable[[Sequence[MetricResult], MetricResult], Image.Image]


class Tracker(Protocol):
    """What an evaluation tells the experiment tracker."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics of the evaluation itself."""

    def training_metrics(
        self, values: Mapping[str, float], kimg: int, snapshot: str | None = None
    ) -> None:
        """Metrics of the training run at ``kimg``, and of that snapshot."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file that stands when the stage ends."""

    def dataset(self, *, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The data set that was compared with."""


@dataclass(frozen=True)
class Outputs:
    """Where the files of an evaluation go.

    Attributes:
        report: JSON; pictures of the closest pairs go beside it as ``closest-<metric>.png``.
        table: CSV.
        chart: PNG.
    """

    report: Path
    table: Path
    chart: Path


@dataclass(frozen=True)
class RunPlan:
    """An evaluation of a training run whose settings and places are known to be good.

    Attributes:
        ranks: the processes that share it; only the first writes and tracks.
    """

    config: EvaluateConfig
    run_dir: Path
    packed: PackedSet
    outputs: Outputs
    best_by: str
    ranks: Ranks


def plan_run(config: EvaluateConfig, run_dir: Path, data: Path, outputs: Outputs) -> RunPlan:
    """Check all that can be checked before any work.

    Raises:
        MetricError: an unknown metric, ``best_by`` not among the metrics, or no snapshots.
        DataError: no packed set, or something that is not ours in the place of an output.
    """
    metrics = parse_metrics(config.metrics)
    best_by = best_metric([name for metric in metrics for name in metric.outputs], config.best_by)
    pairs = _pair_places(outputs.report, metrics)
    check_outputs(outputs.report, outputs.table, outputs.chart, list(pairs.values()))
    find_snapshots(run_dir)
    packed = PackedSet(data)
    return RunPlan(config, run_dir, packed, outputs, best_by, Ranks.of_environment())


def evaluate_run(plan: RunPlan, tracker: Tracker, draw_chart: DrawChart) -> str:
    """Measure the snapshots of a run, write report, table and pictures, and tell the tracker.

    Args:
        draw_chart: draws all results over the age of the snapshots, given them and the best one.

    Returns:
        The results as lines of text, the best marked by a star.

    Raises:
        MetricError, CheckpointError, DataError: as ``evaluate_snapshots``.
        ConfigError: there is no such device.
    """
    _name_dataset(tracker, plan.packed)
    pictures: dict[tuple[str, str], Image.Image] = {}

    def keep(snapshot: str, metric: str, picture: Image.Image) -> None:
        pictures[snapshot, metric] = picture

    results = _results(plan, increment=lambda done: _tell(tracker, done), on_picture=keep)
    content = _report_of(results, plan.packed.digest, plan.packed.num_images, plan.best_by)
    best, outputs = find_best(results, plan.best_by), plan.outputs
    pairs = _pair_places(outputs.report, parse_metrics(plan.config.metrics))
    for metric, path in pairs.items():
        write_picture(path, pictures[best.snapshot, metric])
    write_picture(outputs.chart, draw_chart(results, best))
    write_table(outputs.table, results, plan.best_by)
    write_report(outputs.report, content)
    tracker.metrics({f"best_{plan.best_by}": best.value})
    for path in (outputs.report, outputs.table, outputs.chart, *pairs.values()):
        tracker.artifact(path)
    return format_table(results, plan.best_by)


def help_evaluate(plan: RunPlan) -> None:
    """Do a process's share of an evaluation whose first process does the rest.

    Raises:
        MetricError, CheckpointError, DataError, ConfigError: as ``evaluate_run``.
    """
    _results(plan)


def evaluate_one(
    config: EvaluateNetworkConfig, source: str, data: Path, report: Path | None
) -> str:
    """Measure one network, and write a report if a place for it is given.

    Returns:
        The results as lines of text; empty on all processes but the first.

    Raises:
        MetricError, CheckpointError, DataError, ConfigError: as ``plan_run`` and ``evaluate_run``.
    """
    metrics = parse_metrics(config.metrics)
    pairs = _check_single(report, metrics)
    packed, ranks = PackedSet(data), Ranks.of_environment()
    results = evaluate_network(
        source,
        packed,
        config.metrics,
        seed=config.seed,
        batch=config.batch,
        device=pick_device(config.device),
        on_picture=lambda _, metric, picture: _write_pairs(pairs, metric, picture),
        ranks=ranks,
    )
    if not ranks.is_main_process:
        return ""
    return _single_outcome(results, report, packed.digest, packed.num_images)


def evaluate_images(config: EvaluateImagesConfig, a: Path, b: Path, report: Path | None) -> str:
    """Compare two sets of pictures, and write a report if a place for it is given.

    Args:
        a: folder or zip file of the pictures that are judged.
        b: of those that they are held to.

    Returns:
        The results as lines of text.

    Raises:
        MetricError, DataError, ConfigError: as ``compare_sets``; something that is not ours stands
            in the place of the report.
    """
    judged, reference = PictureSet(a), PictureSet(b)
    pairs = _check_single(report, parse_set_metrics(config.metrics, judged.num_images))
    results = compare_sets(
        judged,
        reference,
        config.metrics,
        seed=config.seed,
        batch=config.batch,
        device=pick_device(config.device),
        on_picture=lambda metric, picture: _write_pairs(pairs, metric, picture),
    )
    return _single_outcome(results, report, reference.digest, reference.num_images)


def _results(
    plan: RunPlan,
    increment: Callable[[list[MetricResult]], None] | None = None,
    on_picture: Callable[[str, str, Image.Image], None] | None = None,
) -> list[MetricResult]:
    return evaluate_snapshots(
        plan.run_dir,
        plan.packed,
        plan.config.metrics,
        seed=plan.config.seed,
        batch=plan.config.batch,
        device=pick_device(plan.config.device),
        snapshots=plan.config.snapshots,
        increment=increment,
        on_picture=on_picture,
        ranks=plan.ranks,
    )


def _pair_places(report: Path, metrics: Sequence[Metric]) -> dict[str, Path]:
    """Where the closest pairs of a metric go, by its name; beside the report."""
    names = [metric.name for metric in metrics if metric.kind in ("mem", "mem_random")]
    return {name: report.with_name(f"closest-{name}.png") for name in names}


def _check_single(report: Path | None, metrics: Sequence[Metric]) -> dict[str, Path]:
    """Refuse foreign outputs; where pictures of pairs go, or nowhere without a report."""
    if report is None:
        return {}
    pairs = _pair_places(report, metrics)
    check_outputs(report, pairs=list(pairs.values()))
    return pairs


def _write_pairs(places: Mapping[str, Path], metric: str, picture: Image.Image) -> None:
    if metric in places:
        write_picture(places[metric], picture)


def _single_outcome(
    results: list[MetricResult], report: Path | None, reference_sha256: str, num_images: int
) -> str:
    best_by = results[0].metric
    if report is not None:
        write_report(report, _report_of(results, reference_sha256, num_images, best_by))
    return format_table(results, best_by)


def _report_of(
    results: list[MetricResult], reference_sha256: str, num_images: int, best_by: str
) -> dict[str, Any]:
    return build_report(
        results, reference_sha256=reference_sha256, num_images=num_images, best_by=best_by
    )


def _tell(tracker: Tracker, results: list[MetricResult]) -> None:
    first = results[0]
    values = {result.metric: result.value for result in results}
    assert first.kimg is not None  # it is in the name of every snapshot
    tracker.training_metrics(values, first.kimg, snapshot=first.snapshot)


def _name_dataset(tracker: Tracker, packed: PackedSet) -> None:
    profile = {"num_images": packed.num_images, "resolution": packed.resolution}
    tracker.dataset(
        name=packed.name, digest=packed.digest, source=str(packed.path), profile=profile
    )
