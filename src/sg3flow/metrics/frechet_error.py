"""The standard error of the Frechet distance, and what each generated image adds to it.

The covariance of the reference is ``F F^T``. The distance depends on the generated covariance only
by its trace and by ``F^T cov F``, so sums over images are kept along the columns of ``F``: a block
of images is left out without another covariance of all features.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sg3flow.metrics.estimates import block_bounds

Array = NDArray[np.float64]
_ROWS = 1024


@dataclass(frozen=True)
class Against:
    """The reference of a distance.

    Attributes:
        mean: ``[F]``.
        trace: of its covariance.
        factor: ``F`` of ``[F, rank]`` with ``F F^T`` the covariance.
        ddof: generated covariances are divided by N - ``ddof``, as this one is.
    """

    mean: Array
    trace: float
    factor: Array
    ddof: int = 0


@dataclass(frozen=True)
class Sums:
    """Sums over features.

    Attributes:
        count: their number N.
        mean: ``[F]``.
        scatter: ``[rank, rank]``, sum of the products of ``F^T d``, ``d`` the deviation from the
            mean.
        spread: sum of ``d.d``.
    """

    count: int
    mean: Array
    scatter: Array
    spread: float


def left_out_distances(
    features: NDArray[np.float32], against: Against
) -> tuple[list[float], "Sums"]:
    """The distance with each block of ``block_bounds`` left out in turn, and the sums of all."""
    whole = sums_of(features, against.factor)
    bounds = block_bounds(len(features))
    found = []
    for start, end in bounds if len(bounds) > 1 else []:
        rest = without(whole, sums_of(features[start:end], against.factor), against.factor)
        found.append(quick_distance(rest, against))
    return found, whole


def frechet_terms(features: NDArray[np.float32], whole: Sums, against: Against) -> Array:
    """What each generated image adds to the deviation of the Frechet distance, ``[N]``.

    The infinitesimal jackknife (Jaeckel 1972): the derivative of the distance by the weight of the
    image. With ``d = x - mu`` of an image and the optimal map
    ``T = F (F^T cov F)^(-1/2) F^T`` from the generated to the reference Gaussian, it is
    ``2 d.(mu - mu_ref) + (d.d - d.T d) N / (N - ddof)``, less its mean.

    Args:
        features: ``[N, F]``.
        whole: the sums of all of them.
    """
    variances, axes = np.linalg.eigh(whole.scatter / (whole.count - against.ddof))
    # Images vary along no other axes: with fewer images than features some variances are rounding.
    bound = max(variances.max(initial=0), 0) * len(whole.mean) * np.finfo(np.float64).eps
    seen = variances > bound
    toward = against.factor @ (axes[:, seen] / variances[seen] ** 0.25)
    offset = 2 * (whole.mean - against.mean)
    scale = whole.count / (whole.count - against.ddof)
    effects = np.empty(len(features))
    for rows in _parts(len(features)):
        d = features[rows] - whole.mean
        mapped = np.square(d @ toward).sum(axis=1)
        spread = np.square(d).sum(axis=1) - mapped
        effects[rows] = d @ offset + spread * scale
    effects -= effects.mean()
    return effects / math.sqrt(len(effects) * (len(effects) - 1))


def sums_of(features: NDArray[np.float32], factor: Array) -> Sums:
    """The sums of features ``[N, F]`` along the columns of ``factor``."""
    mean = features.mean(axis=0, dtype=np.float64)
    scatter, spread = np.zeros((factor.shape[1], factor.shape[1])), 0.0
    for rows in _parts(len(features)):
        d = features[rows] - mean
        spread += float(np.square(d).sum())
        projected = d @ factor
        scatter += projected.T @ projected
    return Sums(len(features), mean, scatter, spread)


def without(whole: Sums, part: Sums, factor: Array) -> Sums:
    """The sums of the items that are not in ``part``."""
    count = whole.count - part.count
    mean = (whole.mean * whole.count - part.mean * part.count) / count
    offset = part.mean - mean
    weight = count * part.count / whole.count
    scatter = whole.scatter - part.scatter
    scatter -= np.outer(projected := offset @ factor, projected) * weight
    return Sums(count, mean, scatter, whole.spread - part.spread - float(offset @ offset) * weight)


def quick_distance(sums: Sums, against: Against) -> float:
    """The distance by eigenvalues of ``F^T cov F``.

    It takes half the time of a decomposition of both covariances. It loses half of the digits if
    both are singular, which does not matter for an error.
    """
    divisor = sums.count - against.ddof
    values = np.linalg.eigvalsh(sums.scatter / divisor)
    root_trace = np.sqrt(np.maximum(values, 0)).sum()
    offset = sums.mean - against.mean
    return float(offset @ offset + sums.spread / divisor + against.trace - 2 * root_trace)


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)
