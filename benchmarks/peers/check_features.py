"""Distances, precision and recall of the same features: the peers' functions beside ours.

Where a peer computes in the float32 of the features, it gets them as float64, too: the difference
that remains then is none of the formula.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import outside  # noqa: F401
import torch
import torchmetrics.image.fid
import torchmetrics.image.kid
from cleanfid.fid import fid_from_feats, kernel_distance
from numpy.typing import NDArray
from pytorch_fid.fid_score import calculate_frechet_distance
from rows import Row, report_rows
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from sg3flow.metrics.distances import FeatureStats, RunningStats, frechet_estimate
from sg3flow.metrics.neighborhoods import precision_recall
from sg3flow.metrics.polynomial_mmd import kernel_estimate

COUNT, FEATURES = 2000, 256
_SUBSETS, _SIZE, _SEED = 100, 1000, 2020
Features = NDArray[np.float32]


def drawn_features(seed: int, count: int = COUNT, width: int = FEATURES) -> Features:
    """Correlated, positive features like those of Inception, float32 ``[count, width]``."""
    mix = np.random.RandomState(0).randn(width, width) / np.sqrt(width)
    samples = np.random.RandomState(seed).randn(count, width) @ mix
    return np.abs(samples + 0.1 * seed).astype(np.float32)


def _stats(features: Features) -> FeatureStats:
    running = RunningStats(features.shape[1])
    running.add(features)
    return running.result()


def frechet_of_ours(a: Features, b: Features, ddof: int = 1) -> float:
    """Our distance with covariances divided by N - ``ddof``."""
    return frechet_estimate(a, _stats(b), ddof).value


def frechet_of_pytorch_fid(a: Features, b: Features) -> float:
    """As its command computes it from the features of two folders, which it keeps in float64."""
    sides = [(np.mean(x, axis=0), np.cov(x, rowvar=False)) for x in map(np.float64, (a, b))]
    return float(calculate_frechet_distance(*sides[0], *sides[1]))


def frechet_of_torch_fidelity(a: Features, b: Features) -> float:
    """As its command computes it; the means are float32."""
    stats = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    return float(fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"])


class _Given(torch.nn.Module):
    """Takes the place of torchmetrics' detector: the "images" are the features."""

    num_features = FEATURES

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), -1)


def frechet_of_torchmetrics(a: Features, b: Features) -> float:
    """With features given in place of images."""
    network = _Given()
    network.num_features = a.shape[1]
    metric = torchmetrics.image.fid.FrechetInceptionDistance(
        feature=network, input_img_size=(1, 1, a.shape[1]), normalize=False
    )
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(a.astype(np.float64)), real=False)
    metric.update(torch.from_numpy(b.astype(np.float64)), real=True)
    return float(metric.compute())


def check() -> Iterator[Row]:
    """A row for each peer and distance."""
    a, b = drawn_features(1), drawn_features(2)  # a: generated
    yield from _frechet_rows(a, b)
    yield from _divisor_rows()
    yield from _kernel_rows(a, b)
    yield from _neighbor_rows(a, b)


def _frechet_rows(a: Features, b: Features) -> Iterator[Row]:
    case, ours = f"Frechet distance of {COUNT:,} x {FEATURES} features", frechet_of_ours(a, b)
    row = partial(Row, case, ours=ours, limit=1e-6)
    yield row("pytorch-fid", frechet_of_pytorch_fid(a, b), name="pytorch_fid")
    yield row("clean-fid", float(fid_from_feats(a, b)), name="clean_fid")
    yield row("torch-fidelity", frechet_of_torch_fidelity(a, b), name="torch_fidelity_fid")
    yield row("torchmetrics", frechet_of_torchmetrics(a, b), name="torchmetrics_fid")


def _divisor_rows() -> Iterator[Row]:
    """How far apart the divisors N - 1 and N are: N / (N - 1) but for the means."""
    for count in (20, 500):
        a, b = (drawn_features(seed, count, 64) for seed in (1, 2))
        case = f"Frechet distance of {count} x 64 features, N - 1 beside N"
        yield Row(
            case, "pytorch-fid", frechet_of_pytorch_fid(a, b), frechet_of_ours(a, b, 0), None,
            name="fid", note="the divisor",
        )  # fmt: skip


def _kernel_rows(a: Features, b: Features) -> Iterator[Row]:
    case = f"kernel distance of {COUNT:,} x {FEATURES} features, {_SUBSETS} subsets of {_SIZE:,}"
    settings = {"kid_subsets": _SUBSETS, "kid_subset_size": _SIZE, "rng_seed": _SEED}
    ours = kernel_estimate(b, a, _SUBSETS, _SIZE, _SEED, draw_b_first=True).value
    for note, dtype, limit in (("", torch.float64, 1e-6), ("it sums in float32", None, 1e-3)):
        sides = [torch.from_numpy(x).to(dtype or torch.float32) for x in (a, b)]
        found = kid_features_to_metric(*sides, verbose=False, **settings)
        theirs = found["kernel_inception_distance_mean"]
        yield Row(case, "torch-fidelity", theirs, ours, limit, name="torch_fidelity_kid", note=note)
    # clean-fid draws from numpy's global generator, the second set first.
    np.random.seed(_SEED)
    theirs = kernel_distance(*map(np.float64, (a, b)), _SUBSETS, _SIZE)
    ours = kernel_estimate(b, a, _SUBSETS, _SIZE, _SEED).value
    yield Row(case, "clean-fid", theirs, ours, 1e-6, name="clean_kid")
    yield from _torchmetrics_kernel_row(a[:_SIZE], b[:_SIZE])


def _torchmetrics_kernel_row(a: Features, b: Features) -> Iterator[Row]:
    """Its draws cannot be seeded apart from torch: one subset of everything has none."""
    sides = [torch.from_numpy(x.astype(np.float64)) for x in (b, a)]
    theirs = float(torchmetrics.image.kid.poly_mmd(*sides))
    case = f"kernel distance of {_SIZE:,} x {FEATURES} features, all at once"
    yield Row(case, "torchmetrics", theirs, kernel_estimate(b, a, 1, _SIZE, 0).value, 1e-6)


def _neighbor_rows(a: Features, b: Features) -> Iterator[Row]:
    case = f"of {COUNT:,} x {FEATURES} features, 3rd neighbor"
    sides = [torch.from_numpy(x) for x in (a, b)]
    settings = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "save_cpu_ram": False}
    theirs = prc_features_to_metric(*sides, verbose=False, **settings)
    ours = precision_recall(sides[1], sides[0], 3)
    for name, value in zip(("precision", "recall"), ours, strict=True):
        yield Row(f"{name} {case}", "torch-fidelity", theirs[name], float(value), 1e-6)


if __name__ == "__main__":
    report_rows(check)
