"""Metrics of networks: of every snapshot of a training run, or of any one network.

Each result says what was compared with what. The pictures of a network are drawn once for all its
Frechet distances; equivariance needs pairs of pictures and draws its own.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.packaged import WEIGHTS_NAME
from sg3flow.checkpoints.sources import local_copy
from sg3flow.data.archive import PackedSet
from sg3flow.errors import MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.equivariance import eqr, eqt, require_movable
from sg3flow.metrics.features import FeatureExtractor, load_extractor
from sg3flow.metrics.float32 import exact_float32
from sg3flow.metrics.frechet import FeatureStats, RunningStats, frechet_distance
from sg3flow.metrics.generation import Generator, draw_pictures, latent_batches
from sg3flow.metrics.names import Metric, parse_metrics
from sg3flow.metrics.reference import reference_stats
from sg3flow.progress import progress

# Pictures that share one random motion. Fixed: the batch must not decide what is measured.
_PICTURES_PER_MOTION = 4
_SNAPSHOT_NAME = re.compile(r"network-snapshot-([0-9]{6,})\.pkl")


@dataclass(frozen=True)
class MetricResult:
    """One number, and what it takes to compare it with another.

    Attributes:
        snapshot: file name of the snapshot, or the source of the network.
        kimg: thousands of real images seen in training; None for a network of unknown age.
        metric: name with the count, ``fid50k_full``.
        value: a distance, or dB.
        num_generated, num_reference: pictures on either side.
        detector, detector_sha256, resize: of the features; None for equivariance, as are
            ``num_reference`` and ``reference_sha256``.
        reference_sha256: digest of the content of the packed set.
        network_sha256: digest of the network's file.
        torch: version that computed it.
    """

    snapshot: str
    kimg: int | None
    metric: str
    value: float
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


@dataclass(frozen=True)
class _Judge:
    """What stays the same from network to network."""

    packed: PackedSet
    metrics: list[Metric]
    references: dict[str, tuple[FeatureExtractor, FeatureStats]]  # by kind of metric
    seed: int
    batch: int
    device: torch.device

    def images_per_network(self) -> int:
        """Pictures drawn for one network, with a moved pair counted once."""
        shared = max((m.num_images for m in self.metrics if m.is_frechet), default=0)
        return shared + sum(m.num_images for m in self.metrics if not m.is_frechet)


def evaluate_snapshots(
    run_dir: Path,
    packed: PackedSet,
    names: tuple[str, ...],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    snapshots: str = "all",
    increment: Callable[[list[MetricResult]], None] | None = None,
) -> list[MetricResult]:
    """Measure the snapshots of a training run, in the order of their age.

    Args:
        run_dir: folder with ``network-snapshot-<kimg>.pkl`` files.
        packed: the training set.
        names: of the metrics.
        seed: of everything drawn; the same seed gives the same numbers.
        batch: pictures at a time; changes speed and memory only.
        device: where to compute.
        snapshots: ``all`` or ``last``.
        increment: called with the results of each snapshot as it is done.

    Raises:
        MetricError: no snapshots, an unknown metric, weights of a detector that cannot be had, a
            network that does not fit the data or draws values that are not finite.
        CheckpointError: a snapshot cannot be read.
        DataError: a picture cannot be read.
    """
    metrics = parse_metrics(names)
    paths = find_snapshots(run_dir)
    chosen = paths[-1:] if snapshots == "last" else paths
    with exact_float32():
        judge = _prepare(packed, metrics, seed, batch, device)
        results: list[MetricResult] = []
        total = len(chosen) * judge.images_per_network()
        with progress(f"evaluating {len(chosen)} snapshots", total) as advance:
            for path in chosen:
                found = _measure(judge, path, path.name, _kimg(path), advance)
                results += found
                if increment is not None:
                    increment(found)
    return results


def evaluate_network(
    source: str,
    packed: PackedSet,
    names: tuple[str, ...],
    *,
    seed: int,
    batch: int,
    device: torch.device,
) -> list[MetricResult]:
    """Measure one network from a path, URL, ``models:/…`` or ``runs:/…``.

    Arguments and errors are those of ``evaluate_snapshots``.
    """
    metrics = parse_metrics(names)
    path, name = local_copy(source), shown_url(source)
    with exact_float32():
        judge = _prepare(packed, metrics, seed, batch, device)
        with progress(f"evaluating {name}", judge.images_per_network()) as advance:
            return _measure(judge, path, name, _kimg(path), advance)


def find_snapshots(run_dir: Path) -> list[Path]:
    """The whole snapshots of a run, oldest first; half-written ones carry other names.

    Raises:
        MetricError: there are none.
    """
    if not run_dir.is_dir():
        raise MetricError(f"no training run at {run_dir}; train one with stages/train.py")
    paths = [path for path in run_dir.iterdir() if _SNAPSHOT_NAME.fullmatch(path.name)]
    if not paths:
        raise MetricError(
            f"{run_dir} holds no network-snapshot-*.pkl; train until the first snapshot (--snap)"
        )
    return sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2]))


def _kimg(path: Path) -> int | None:
    match = _SNAPSHOT_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def _prepare(
    packed: PackedSet, metrics: list[Metric], seed: int, batch: int, device: torch.device
) -> _Judge:
    references = {}
    for kind in dict.fromkeys(metric.kind for metric in metrics if metric.is_frechet):
        extractor = load_extractor(kind, device)
        references[kind] = (extractor, reference_stats(packed, extractor, batch))
    return _Judge(packed, metrics, references, seed, batch, device)


def _measure(
    judge: _Judge, path: Path, name: str, kimg: int | None, advance: Callable[[int], None]
) -> list[MetricResult]:
    G = _generator(judge, path, name)
    try:
        values = _frechet_values(judge, G, advance) | _equivariance_values(judge, G, advance)
    except MetricError as error:
        raise MetricError(f"{name}: {error}") from error
    digest = _network_digest(path)
    return [_result(judge, m, values[m.name], name, kimg, digest) for m in judge.metrics]


def _generator(judge: _Judge, path: Path, name: str) -> Generator:
    network = load_networks(path).G_ema
    if network is None:
        raise MetricError(f"{name} holds no G_ema, the network that is judged")
    G = cast(Generator, network.eval().requires_grad_(False).to(judge.device))
    form, wanted = (
        (G.img_resolution, G.img_channels),
        (judge.packed.resolution, judge.packed.channels),
    )
    if form != wanted:
        raise MetricError(
            f"{name} draws {form[0]}x{form[0]}x{form[1]}, {judge.packed.path} holds "
            f"{wanted[0]}x{wanted[0]}x{wanted[1]}; give the set that it was trained on"
        )
    if any(not metric.is_frechet for metric in judge.metrics):
        require_movable(G)
    return G


def _frechet_values(
    judge: _Judge, G: Generator, advance: Callable[[int], None]
) -> dict[str, float]:
    """All Frechet distances in one pass; those over fewer pictures stop listening earlier."""
    metrics = [metric for metric in judge.metrics if metric.is_frechet]
    if not metrics:
        return {}
    running = {m.name: RunningStats(judge.references[m.kind][0].num_features) for m in metrics}
    total = max(metric.num_images for metric in metrics)
    for z, c in latent_batches(G, judge.packed, total, judge.batch, judge.seed):
        images = draw_pictures(G, z, c)
        listening = [m for m in metrics if running[m.name].count < m.num_images]
        kinds = dict.fromkeys(metric.kind for metric in listening)
        features = {kind: _features(judge, kind, images) for kind in kinds}
        for metric in listening:
            stats = running[metric.name]
            stats.add(features[metric.kind][: metric.num_images - stats.count].numpy())
        advance(len(images))
    return {m.name: _distance(running[m.name], judge.references[m.kind][1]) for m in metrics}


def _features(judge: _Judge, kind: str, images: torch.Tensor) -> torch.Tensor:
    extractor = judge.references[kind][0]
    features = extractor(images).cpu()
    if not torch.isfinite(features).all():
        raise MetricError(f"{extractor.name} gives features that are not finite")
    return features


def _distance(running: RunningStats, reference: FeatureStats) -> float:
    generated = running.result()
    return frechet_distance(reference.mean, reference.cov, generated.mean, generated.cov)


def _equivariance_values(
    judge: _Judge, G: Generator, advance: Callable[[int], None]
) -> dict[str, float]:
    values = {}
    for metric in judge.metrics:
        if metric.is_frechet:
            continue
        batches = latent_batches(
            G, judge.packed, metric.num_images, _PICTURES_PER_MOTION, judge.seed
        )
        inputs = _counted(batches, advance)
        if metric.kind == "eqr":
            values[metric.name] = eqr(G, inputs, seed=judge.seed)
        else:
            fractional = metric.kind == "eqt_frac"
            values[metric.name] = eqt(G, inputs, fractional=fractional, seed=judge.seed)
    return values


def _counted(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]], advance: Callable[[int], None]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for z, c in batches:
        yield z, c
        advance(len(z))


def _network_digest(path: Path) -> str:
    """Of the file; of a registered model's folder, that of its weights."""
    if path.is_dir():
        weights = path / "artifacts" / WEIGHTS_NAME
        path = weights if weights.is_file() else next(path.glob("*.pkl"))
    return sha256_file(path)


def _result(
    judge: _Judge, metric: Metric, value: float, name: str, kimg: int | None, digest: str
) -> MetricResult:
    extractor, stats = judge.references.get(metric.kind, (None, None))
    return MetricResult(
        snapshot=name,
        kimg=kimg,
        metric=metric.name,
        value=value,
        num_generated=metric.num_images,
        num_reference=stats.count if stats else None,
        detector=extractor.name if extractor else None,
        detector_sha256=extractor.digest if extractor else None,
        reference_sha256=judge.packed.digest if stats else None,
        network_sha256=digest,
        resize=extractor.resize if extractor else None,
        seed=judge.seed,
        higher_is_better=metric.higher_is_better,
        torch=torch.__version__,
    )
