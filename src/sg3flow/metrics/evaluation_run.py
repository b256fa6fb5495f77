"""Evaluations with their outputs: during training, and by the commands of the evaluate stage."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.loading import local_copy
from sg3flow.checkpoints.snapshots import is_snapshot_file
from sg3flow.config import EvaluateConfig, EvaluateImagesConfig, EvaluateNetworkConfig
from sg3flow.data.archive import PackedSet
from sg3flow.device import open_device, pick_device, visible_words
from sg3flow.distributed import ALONE, Ranks, is_launched
from sg3flow.errors import ConfigError, DataError, MetricError
from sg3flow.files import link_or_copy, sha256_file, write_json
from sg3flow.metrics.error_terms import beside, is_terms_file
from sg3flow.metrics.evaluation import (
    ImageSet,
    compare_sets,
    evaluate_network,
    evaluate_snapshots,
    find_snapshots,
    set_warnings,
)
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.names import Metric, parse_metrics, parse_set_metrics
from sg3flow.metrics.report import (
    MetricResult,
    best_metric,
    build_report,
    build_summary,
    check_outputs,
    find_best,
    format_table,
    write_error_terms,
    write_picture,
    write_report,
    write_table,
)
from sg3flow.output_checks import check_distinct, check_replaceable
from sg3flow.runs.provenance import find_training_set
from sg3flow.runs.run_folder import read_run

NONE = "none"
_MIRROR = {"auto": None, "yes": True, "no": False}
DrawChart = Callable[[Sequence[MetricResult], MetricResult], Image.Image]


class SnapshotMetrics:
    """Measures G_ema of each snapshot during training; all processes share the work.

    Training results do not change, bit for bit.

    Attributes:
        names: of the values: ``pr50k3_full_precision``, not ``pr50k3_full``.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.names = tuple(name for metric in evaluator.metrics for name in metric.outputs)

    def __call__(self, G_ema: Any, snapshot: Path | None, nimg: int) -> Mapping[str, float]:
        """Values by name.

        Args:
            snapshot: the file; None in all processes except the main one.
        """
        name = snapshot.name if snapshot is not None else ""
        digest = sha256_file(snapshot) if snapshot is not None else ""
        results = self.evaluator.measure(G_ema, name, nimg // 1000, digest)
        return {result.metric: result.value for result in results}


def snapshot_metrics(
    names: tuple[str, ...],
    packed: PackedSet,
    *,
    batch: int,
    device: torch.device,
    mirror: bool = False,
) -> SnapshotMetrics | None:
    """Prepare the metrics of a training; None if ``names`` is ``none``.

    Args:
        mirror: the setting of the training.

    Raises:
        MetricError: an unknown metric, or weights that are not available.
        DataError: an image cannot be read.
    """
    check_names(names)
    if names == (NONE,):
        return None
    ranks = Ranks.of_training()
    evaluator = Evaluator(
        packed, names, seed=0, batch=batch, device=device, ranks=ranks, mirror=mirror
    )
    evaluator.prepare()
    return SnapshotMetrics(evaluator)


def check_names(names: tuple[str, ...]) -> None:
    """Check the setting ``train.metrics``.

    Raises:
        MetricError: an unknown metric, or ``none`` together with others.
    """
    if NONE in names and names != (NONE,):
        raise MetricError(f"train.metrics: 'none' excludes other metrics; found {', '.join(names)}")
    if names != (NONE,):
        parse_metrics(names)


class Tracker(Protocol):
    """Receives the results of an evaluation, for experiment tracking."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Metrics of the evaluation itself."""

    def training_metrics(
        self, values: Mapping[str, float], kimg: int, snapshot: str | None = None
    ) -> None:
        """Metrics of the training run at ``kimg``, and of its snapshot."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file to upload when the stage ends."""

    def dataset(self, *, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """The reference data set."""


@dataclass(frozen=True)
class Outputs:
    """Paths of the output files of an evaluation.

    Attributes:
        report: JSON; written beside it are the error terms, with the suffix ``.npz``, and sheets of
            closest pairs as ``closest-<metric>.png``.
        table: CSV.
        chart: PNG.
        summary: JSON with the values of the best snapshot; None: not written.
        best: the best snapshot, a hard link or a copy; None: not written.
    """

    report: Path
    table: Path
    chart: Path
    summary: Path | None = None
    best: Path | None = None


@dataclass(frozen=True)
class RunPlan:
    """An evaluation of a training run with checked settings and paths.

    Attributes:
        ranks: the processes that share the work; only the main process writes and tracks.
        held_out: images that the training has not seen.
    """

    config: EvaluateConfig
    run_dir: Path
    packed: PackedSet
    outputs: Outputs
    best_by: str
    ranks: Ranks
    held_out: ImageSet | None = None


def check_processes(gpus: int, device: str) -> None:
    """Check the setting ``evaluate.gpus``.

    Raises:
        ConfigError: torchrun started another number of processes, or there are fewer GPUs.
    """
    if is_launched():
        found = int(os.environ["WORLD_SIZE"])
        if gpus not in (1, found):
            raise ConfigError(
                f"evaluate.gpus is {gpus}, and torchrun started {found} processes; leave it out"
            )
    elif gpus > 1 and pick_device(device).type == "cuda" and gpus > torch.cuda.device_count():
        raise ConfigError(
            f"evaluate.gpus is {gpus}, and {torch.cuda.device_count()} CUDA devices are visible"
            f"{visible_words()}; lower it"
        )


def plan_run(
    config: EvaluateConfig,
    run_dir: Path,
    data: Path | None,
    outputs: Outputs,
    held_out: Path | None = None,
) -> RunPlan:
    """Check everything that can be checked before the work starts.

    Args:
        data: the packed set; None: that of the training.
        held_out: images that the training has not seen: a folder, zip or tar file; None: none.

    Raises:
        MetricError: an unknown metric, ``best_by`` not among the metrics, or no snapshots.
        DataError: no packed set, or an output path is taken by a foreign file or another output.
    """
    metrics = parse_metrics(config.metrics)
    best_by = best_metric([name for metric in metrics for name in metric.outputs], config.best_by)
    pairs = _pair_places(outputs.report, metrics)
    _check_run_outputs(outputs, run_dir, list(pairs.values()))
    last = find_snapshots(run_dir)[-1]
    ranks = Ranks.of_environment()
    _note_mirror(config.mirror, metrics, ranks)
    packed = _packed_set(data, lambda: _set_of_run(run_dir, last), ranks)
    unseen = _held_out_of(packed, held_out, metrics, ranks)
    return RunPlan(config, run_dir, packed, outputs, best_by, ranks, unseen)


def _check_run_outputs(outputs: Outputs, run_dir: Path, pairs: list[Path]) -> None:
    check_outputs(outputs.report, outputs.table, outputs.chart, pairs, outputs.summary)
    terms = beside(outputs.report)
    check_replaceable(terms, is_terms_file, "a file of error terms", "--report")
    named = {"--report": outputs.report, "--table": outputs.table, "--chart": outputs.chart}
    optional = {"--summary": outputs.summary, "--best": outputs.best}
    check_distinct(named | {option: path for option, path in optional.items() if path})
    if outputs.best is not None:
        if outputs.best.resolve().parent == run_dir.resolve():
            raise DataError(f"--best {outputs.best} is in the run folder; choose another folder")
        check_replaceable(outputs.best, is_snapshot_file, "a snapshot", "--best")


def evaluate_run(plan: RunPlan, tracker: Tracker, draw_chart: DrawChart) -> str:
    """Measure the snapshots of a run, write report, table and images, and track the results.

    Args:
        draw_chart: draws the results over kimg; called with all results and the best one.

    Returns:
        The results as lines of text; a star marks the best.

    Raises:
        MetricError, CheckpointError, DataError: see ``evaluate_snapshots``.
        ConfigError: there is no such device.
    """
    _name_dataset(tracker, plan.packed)
    pictures: dict[tuple[str, str], Image.Image] = {}

    def keep(snapshot: str, metric: str, picture: Image.Image) -> None:
        pictures[snapshot, metric] = picture

    results = _results(plan, increment=lambda done: _tell(tracker, done), on_pairs=keep)
    content = _report_of(results, plan.packed.digest, plan.packed.num_images, plan.best_by)
    best, outputs = find_best(results, plan.best_by), plan.outputs
    pairs = _pair_places(outputs.report, parse_metrics(plan.config.metrics))
    for metric, path in pairs.items():
        write_picture(path, pictures[best.snapshot, metric])
    write_picture(outputs.chart, draw_chart(results, best))
    write_table(outputs.table, results, plan.best_by)
    write_error_terms(beside(outputs.report), results)
    write_report(outputs.report, content)
    if outputs.summary is not None:
        write_json(outputs.summary, build_summary(results, best))
    if outputs.best is not None:
        link_or_copy(plan.run_dir / best.snapshot, outputs.best)
    tracker.metrics({f"best_{plan.best_by}": best.value})
    terms = beside(outputs.report)
    for path in (outputs.report, terms, outputs.table, outputs.chart, *pairs.values()):
        tracker.artifact(path)
    return format_table(results, plan.best_by)


def assist_evaluation(plan: RunPlan) -> None:
    """Take part in ``evaluate_run`` as a process other than the main one.

    Raises:
        MetricError, CheckpointError, DataError, ConfigError: see ``evaluate_run``.
    """
    _results(plan)


def _packed_set(given: Path | None, find: Callable[[], PackedSet], ranks: Ranks) -> PackedSet:
    """The given set, or the one that ``find`` finds in the main process."""
    if given is not None:
        return PackedSet(given)
    if not ranks.is_main_process:
        return PackedSet(ranks.broadcast(Path))
    packed = find()
    ranks.broadcast(lambda: packed.path)
    return packed


def _set_of_run(run_dir: Path, snapshot: Path) -> PackedSet:
    described = (read_run(run_dir) or {}).get("training_set")
    if not described:
        described = load_networks(snapshot).training_set
    return find_training_set(run_dir, described or {}, str(run_dir))


def set_of_network(source: str) -> PackedSet:
    """The packed set that a network was trained on.

    Raises:
        DataError: it is not there.
        CheckpointError: the network cannot be read.
    """
    path = local_copy(source)
    return find_training_set(path.parent, load_networks(path).training_set or {}, shown_url(source))


def _note_mirror(mirror: str, metrics: Sequence[Metric], ranks: Ranks) -> None:
    has_older = any(metric.is_older for metric in metrics)
    if mirror == "yes" and not has_older and ranks.is_main_process:
        print(
            "note: mirror changes none of these metrics, which compare with each image once; it "
            "is for fid50k, kid50k and pr50k3",
            file=sys.stderr,
        )


def _held_out(path: Path | None, metrics: Sequence[Metric], ranks: Ranks) -> ImageSet | None:
    """The held-out images; says so if they are missing or of no use."""
    used = any(metric.uses_held_out for metric in metrics)
    if path is None and used and ranks.is_main_process:
        print(
            "note: without --held-out, fld takes every second image of the reference set as held "
            "out: it then says nothing about memorized training images",
            file=sys.stderr,
        )
    if path is not None and not used and ranks.is_main_process:
        print("note: --held-out is for fld; no other metric uses it", file=sys.stderr)
    return ImageSet(path) if path is not None and used else None


def _held_out_of(
    packed: PackedSet, path: Path | None, metrics: Sequence[Metric], ranks: Ranks
) -> ImageSet | None:
    """``_held_out``; also says if the images have another size than those of the training."""
    found = _held_out(path, metrics, ranks)
    if found is not None and ranks.is_main_process:
        height, width = found.image(0).shape[:2]
        side = packed.resolution
        if (height, width) != (side, side):
            print(
                f"note: the first image of {found.path} has {width}x{height} pixels, the training "
                f"set {side}x{side}: fld then measures this difference, too; pack the held-out "
                "images with the settings of the training set",
                file=sys.stderr,
            )
    return found


def evaluate_one(
    config: EvaluateNetworkConfig,
    source: str,
    data: Path | None,
    report: Path | None,
    held_out: Path | None = None,
) -> str:
    """Measure one network; write a report if ``report`` is given.

    Args:
        data: the packed set; None: that of the training.
        held_out: see ``plan_run``.

    Returns:
        The results as lines of text; empty on all processes except the main one.

    Raises:
        MetricError, CheckpointError, DataError, ConfigError: see ``plan_run`` and ``evaluate_run``.
    """
    metrics = parse_metrics(config.metrics)
    pairs = _check_single(report, metrics)
    ranks = Ranks.of_environment()
    _note_mirror(config.mirror, metrics, ranks)
    packed = _packed_set(data, lambda: set_of_network(source), ranks)
    unseen = _held_out_of(packed, held_out, metrics, ranks)
    results = evaluate_network(
        source,
        packed,
        config.metrics,
        seed=config.seed,
        batch=config.batch,
        device=open_device(config.device),
        mirror=_MIRROR[config.mirror],
        on_pairs=lambda _, metric, picture: _write_pairs(pairs, metric, picture),
        ranks=ranks,
        held_out=unseen,
    )
    if not ranks.is_main_process:
        return ""
    return _single_outcome(results, report, packed.digest, packed.num_images)


def evaluate_images(
    config: EvaluateImagesConfig,
    a: Path,
    b: Path,
    report: Path | None,
    held_out: Path | None = None,
) -> str:
    """Measure one set of images against another; write a report if ``report`` is given.

    Args:
        a: folder, zip or tar file of the images to measure.
        b: folder, zip or tar file of the reference images.
        held_out: see ``plan_run``.

    Returns:
        The results as lines of text.

    Raises:
        MetricError, DataError, ConfigError: see ``compare_sets``; or an output path is taken by a
            foreign file.
    """
    images, reference, warnings = ImageSet(a), ImageSet(b), list[str]()
    metrics = parse_set_metrics(config.metrics, images.num_images)
    pairs = _check_single(report, metrics)
    results = compare_sets(
        images,
        reference,
        config.metrics,
        seed=config.seed,
        batch=config.batch,
        device=open_device(config.device),
        on_pairs=lambda metric, picture: _write_pairs(pairs, metric, picture),
        on_warning=warnings.append,
        held_out=_held_out(held_out, metrics, ALONE),
    )
    sides = {"a": images, "b": reference}
    warnings += set_warnings({f"--{name}": side for name, side in sides.items()})
    described = {name: side.description() for name, side in sides.items()}
    extra = {"warnings": warnings, "sets": described}
    table = _single_outcome(results, report, reference.digest, reference.num_images, extra)
    return "\n".join([table, *(f"warning: {words}" for words in warnings)])


def _results(
    plan: RunPlan,
    increment: Callable[[list[MetricResult]], None] | None = None,
    on_pairs: Callable[[str, str, Image.Image], None] | None = None,
) -> list[MetricResult]:
    return evaluate_snapshots(
        plan.run_dir,
        plan.packed,
        plan.config.metrics,
        seed=plan.config.seed,
        batch=plan.config.batch,
        device=open_device(plan.config.device),
        mirror=_MIRROR[plan.config.mirror],
        snapshots=plan.config.snapshots,
        increment=increment,
        on_pairs=on_pairs,
        ranks=plan.ranks,
        held_out=plan.held_out,
    )


def _pair_places(report: Path, metrics: Sequence[Metric]) -> dict[str, Path]:
    """Path of the sheet of closest pairs, by name of the metric."""
    names = [metric.name for metric in metrics if metric.finds_pairs]
    return {name: report.with_name(f"closest-{name}.png") for name in names}


def _check_single(report: Path | None, metrics: Sequence[Metric]) -> dict[str, Path]:
    """Refuse foreign outputs; returns the paths of the sheets of pairs, none without a report."""
    if report is None:
        return {}
    pairs = _pair_places(report, metrics)
    check_outputs(report, pairs=list(pairs.values()))
    return pairs


def _write_pairs(places: Mapping[str, Path], metric: str, picture: Image.Image) -> None:
    if metric in places:
        write_picture(places[metric], picture)


def _single_outcome(
    results: list[MetricResult],
    report: Path | None,
    reference_sha256: str,
    num_images: int,
    extra: Mapping[str, Any] | None = None,
) -> str:
    best_by = results[0].metric
    if report is not None:
        content = _report_of(results, reference_sha256, num_images, best_by)
        write_report(report, content | (dict(extra) if extra else {}))
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
