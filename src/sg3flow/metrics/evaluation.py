"""Metrics of networks in files: of every snapshot of a training run, or of any one network."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.packaged_model import WEIGHTS_NAME
from sg3flow.checkpoints.sources import local_copy
from sg3flow.data.archive import PackedSet
from sg3flow.errors import MetricError
from sg3flow.files import sha256_file
from sg3flow.metrics.evaluator import Evaluator
from sg3flow.metrics.ranks import ALONE, Ranks
from sg3flow.metrics.reference import progress_of
from sg3flow.metrics.results import MetricResult

_SNAPSHOT_NAME = re.compile(r"network-snapshot-([0-9]{6,})\.pkl")


def evaluate_snapshots(
    run_dir: Path,
    packed: PackedSet,
    names: Sequence[str],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    snapshots: str = "all",
    increment: Callable[[list[MetricResult]], None] | None = None,
    on_picture: Callable[[str, str, Image.Image], None] | None = None,
    ranks: Ranks = ALONE,
) -> list[MetricResult]:
    """Measure the snapshots of a training run, in the order of their age.

    Args:
        run_dir: folder with ``network-snapshot-<kimg>.pkl`` files.
        packed, names, seed, batch, device, ranks: as for ``Evaluator``.
        snapshots: ``all`` or ``last``.
        increment: called with the results of each snapshot as it is done.
        on_picture: given a snapshot's name, a metric's, and its closest pairs.

    Raises:
        MetricError: no snapshots, or as ``Evaluator.prepare`` and ``Evaluator.measure``.
        CheckpointError: a snapshot cannot be read.
        DataError: a picture cannot be read.
    """
    evaluator = Evaluator(packed, names, seed=seed, batch=batch, device=device, ranks=ranks)
    paths = find_snapshots(run_dir)
    chosen = paths[-1:] if snapshots == "last" else paths
    evaluator.prepare()
    results: list[MetricResult] = []
    total = len(chosen) * evaluator.images_per_network
    with progress_of(ranks, f"evaluating {len(chosen)} snapshots", total) as advance:
        for path in chosen:
            found = _measure(evaluator, path, path.name, advance, on_picture)
            results += found
            if increment is not None:
                increment(found)
    return results


def evaluate_network(
    source: str,
    packed: PackedSet,
    names: Sequence[str],
    *,
    seed: int,
    batch: int,
    device: torch.device,
    on_picture: Callable[[str, str, Image.Image], None] | None = None,
    ranks: Ranks = ALONE,
) -> list[MetricResult]:
    """Measure one network from a path, URL, ``models:/…`` or ``runs:/…``.

    Arguments and errors are those of ``evaluate_snapshots``.
    """
    evaluator = Evaluator(packed, names, seed=seed, batch=batch, device=device, ranks=ranks)
    path, name = local_copy(source), shown_url(source)
    evaluator.prepare()
    with progress_of(ranks, f"evaluating {name}", evaluator.images_per_network) as advance:
        return _measure(evaluator, path, name, advance, on_picture)


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


def _measure(
    evaluator: Evaluator,
    path: Path,
    name: str,
    advance: Callable[[int], None],
    on_picture: Callable[[str, str, Image.Image], None] | None,
) -> list[MetricResult]:
    network = load_networks(path).G_ema
    if network is None:
        raise MetricError(f"{name} holds no G_ema, the network that is judged")
    network = network.to(evaluator.device)
    keep = partial(on_picture, name) if on_picture is not None else None
    return evaluator.measure(
        network, name, _kimg(path), _network_digest(path), advance, on_picture=keep
    )


def _kimg(path: Path) -> int | None:
    match = _SNAPSHOT_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def _network_digest(path: Path) -> str:
    """Of the file; of a registered model's folder, that of its weights."""
    if path.is_dir():
        weights = path / "artifacts" / WEIGHTS_NAME
        path = weights if weights.is_file() else next(path.glob("*.pkl"))
    return sha256_file(path)
