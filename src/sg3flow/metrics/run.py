"""One evaluation from settings to files: what the evaluate stage does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sg3flow.config import EvaluateConfig, EvaluateNetworkConfig
from sg3flow.data.archive import PackedSet
from sg3flow.devices import pick_device
from sg3flow.metrics.evaluation import (
    evaluate_network,
    evaluate_snapshots,
    find_snapshots,
)
from sg3flow.metrics.names import parse_metrics
from sg3flow.metrics.report import (
    best_metric,
    build_report,
    check_outputs,
    format_table,
    write_report,
    write_table,
)
from sg3flow.metrics.results import MetricResult


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
class RunPlan:
    """An evaluation of a training run whose settings and places are known to be good."""

    config: EvaluateConfig
    run_dir: Path
    packed: PackedSet
    report: Path
    table: Path
    best_by: str


def plan_run(
    config: EvaluateConfig, run_dir: Path, data: Path, report: Path, table: Path
) -> RunPlan:
    """Check all that can be checked before any work.

    Raises:
        MetricError: an unknown metric, ``best_by`` not among the metrics, or no snapshots.
        DataError: no packed set, or something that is not ours in the place of an output.
    """
    parse_metrics(config.metrics)
    best_by = best_metric(config.metrics, config.best_by)
    check_outputs(report, table)
    find_snapshots(run_dir)
    return RunPlan(config, run_dir, PackedSet(data), report, table, best_by)


def evaluate_run(plan: RunPlan, tracker: Tracker) -> str:
    """Measure the snapshots of a run, write the report and the table, and tell the tracker.

    Returns:
        The results as lines of text, the best marked by a star.

    Raises:
        MetricError, CheckpointError, DataError: as ``evaluate_snapshots``.
        ConfigError: there is no such device.
    """
    _name_dataset(tracker, plan.packed)
    results = evaluate_snapshots(
        plan.run_dir,
        plan.packed,
        plan.config.metrics,
        seed=plan.config.seed,
        batch=plan.config.batch,
        device=pick_device(plan.config.device),
        snapshots=plan.config.snapshots,
        increment=lambda done: _tell(tracker, done),
    )
    content = _report_of(results, plan.packed, plan.best_by)
    write_table(plan.table, results)
    write_report(plan.report, content)
    tracker.metrics({f"best_{plan.best_by}": content["best"]["value"]})
    for path in (plan.report, plan.table):
        tracker.artifact(path)
    return format_table(results, plan.best_by)


def evaluate_one(
    config: EvaluateNetworkConfig, source: str, data: Path, report: Path | None
) -> str:
    """Measure one network, and write a report if a place for it is given.

    Returns:
        The results as lines of text.

    Raises:
        MetricError, CheckpointError, DataError, ConfigError: as ``plan_run`` and ``evaluate_run``.
    """
    parse_metrics(config.metrics)
    if report is not None:
        check_outputs(report)
    packed = PackedSet(data)
    results = evaluate_network(
        source,
        packed,
        config.metrics,
        seed=config.seed,
        batch=config.batch,
        device=pick_device(config.device),
    )
    if report is not None:
        write_report(report, _report_of(results, packed, config.metrics[0]))
    return format_table(results, config.metrics[0])


def _report_of(results: list[MetricResult], packed: PackedSet, best_by: str) -> dict[str, Any]:
    return build_report(
        results, reference_sha256=packed.digest, num_images=packed.num_images, best_by=best_by
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
