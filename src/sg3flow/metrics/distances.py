"""Frechet distance (Heusel et al. 2017, Eq. 6) between features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dpstrf

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, block_bounds, jackknife_error

Array = NDArray[np.float64]

_ROWS = 1024


def frechet_distance(mu_a: ArrayLike, cov_a: ArrayLike, mu_b: ArrayLike, cov_b: ArrayLike) -> float:
    """``|mu_a - mu_b|^2 + tr(cov_a + cov_b - 2 sqrt(cov_a cov_b))`` in float64.

    With ``cov = F F^T`` the trace of the root is the sum of the singular values of ``F_a^T F_b``.
    The factor of a singular covariance (fewer samples than features) has as many columns as its
    rank, so no precision is lost and no complex numbers appear.

    Args:
        mu_a, mu_b: means, ``[F]``.
        cov_a, cov_b: covariances, ``[F, F]``, symmetric and positive semi-definite.

    Raises:
        MetricError: inconsistent shapes, or values that are not finite.
    """
    mean_a, mean_b = (np.asarray(mu, dtype=np.float64) for mu in (mu_a, mu_b))
    matrix_a, matrix_b = (np.asarray(cov, dtype=np.float64) for cov in (cov_a, cov_b))
    _check(mean_a, matrix_a, mean_b, matrix_b)
    root_trace = np.linalg.svd(_factor(matrix_a).T @ _factor(matrix_b), compute_uv=False).sum()
    offset = mean_a - mean_b
    distance = offset @ offset + np.trace(matrix_a) + np.trace(matrix_b) - 2 * root_trace
    return max(float(distance), 0.0)  # rounding may leave equal inputs just below zero


def _check(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> None:
    size = mean_a.shape[0] if mean_a.ndim == 1 else 0
    shapes = [array.shape for array in (mean_a, cov_a, mean_b, cov_b)]
    if size == 0 or shapes != [(size,), (size, size), (size,), (size, size)]:
        raise MetricError(f"expected two means [F] and two covariances [F, F], found {shapes}")
    if not all(np.isfinite(array).all() for array in (mean_a, cov_a, mean_b, cov_b)):
        raise MetricError("a mean or covariance has values that are not finite")


def _factor(cov: Array) -> Array:
    """``F`` of ``[F, rank]`` with ``F F^T = cov``, by Cholesky with pivots (Higham 2002, Ch. 10).

    It stops when all remaining pivots are within rounding error of zero: the root of such a pivot
    would not be small.
    """
    bound = cov.diagonal().max() * len(cov) * np.finfo(np.float64).eps
    if not bound > 0:
        return np.zeros((len(cov), 0))  # nothing varies
    lower, order, rank, _ = dpstrf(cov, tol=bound, lower=1)
    factor = np.zeros((len(cov), rank))
    factor[order - 1] = np.tril(lower)[:, :rank]
    return factor


@dataclass(frozen=True)
class FeatureStats:
    """Mean ``[F]`` and covariance ``[F, F]`` (divided by ``count``) of a set of features."""

    count: int
    mean: Array
    cov: Array

    def unbiased(self, ddof: int) -> "FeatureStats":
        """The same with the covariance divided by ``count - ddof``.

        Raises:
            MetricError: there are not more than ``ddof`` features.
        """
        if ddof == 0:
            return self
        if self.count <= ddof:
            raise MetricError(
                f"a covariance that is divided by N - {ddof} needs at least {ddof + 1} images"
            )
        return FeatureStats(self.count, self.mean, self.cov * (self.count / (self.count - ddof)))


class RunningStats:
    """Mean and covariance of features that arrive in batches, in float64.

    Each batch is centered before its products are summed and then merged (Chan et al. 1983). A mean
    far from zero costs no precision, and the batch size changes the result by rounding only.
    """

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self._mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))

    def add(self, features: ArrayLike) -> None:
        """Add features ``[N, F]``; ``N`` may be 0."""
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2 or batch.shape[1] != len(self._mean):
            raise MetricError(f"expected features [N, {len(self._mean)}], found {batch.shape}")
        if len(batch) > 0:
            mean = batch.mean(axis=0)
            centered = batch - mean
            self._merge(len(batch), mean, centered.T @ centered)

    def merge(self, stats: FeatureStats) -> None:
        """Add the features that other statistics are of."""
        self._merge(stats.count, stats.mean, stats.cov * stats.count)

    def _merge(self, count: int, mean: Array, scatter: Array) -> None:
        total = self.count + count
        offset = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(offset, offset) * (self.count * count / total)
        self._mean += offset * (count / total)
        self.count = total

    def result(self) -> FeatureStats:
        """Statistics of all features so far; the covariance is divided by N, not by N - 1.

        Raises:
            MetricError: there are none.
        """
        if self.count == 0:
            raise MetricError("there are no features to compute statistics of")
        return FeatureStats(self.count, self._mean.copy(), self._scatter / self.count)


def frechet_estimate(
    features: NDArray[np.float32], reference: FeatureStats, ddof: int = 0
) -> Estimate:
    """Distance of generated features ``[N, F]`` to a reference, with its standard error.

    Both covariances are divided by their N - ``ddof``.

    The error is a jackknife over blocks of generated images. More images also reduce the distance
    itself (Chong and Forsyth 2020): that bias is equal for all networks measured with the same
    number of images and is not part of the error. The error terms are those of single images; see
    ``frechet_terms``.

    Raises:
        MetricError: values that are not finite, or too few images for the divisor.
    """
    blocks = [_stats(features[start:end]) for start, end in block_bounds(len(features))]
    whole, real = _merged(blocks), reference.unbiased(ddof)
    drawn = whole.unbiased(ddof)
    distance = frechet_distance(real.mean, real.cov, drawn.mean, drawn.cov)
    if len(blocks) < 2:
        return Estimate(distance, None)
    factor = _factor(real.cov)
    rests = [_without(whole, block).unbiased(ddof) for block in blocks]
    left_out = [_quick_distance(rest, real, factor) for rest in rests]
    terms = frechet_terms(features, drawn, real, factor, ddof)
    return Estimate(distance, jackknife_error(left_out), terms)


def frechet_terms(
    features: NDArray[np.float32],
    drawn: FeatureStats,
    reference: FeatureStats,
    factor: Array,
    ddof: int = 0,
) -> Array:
    """What each generated image adds to the deviation of the Frechet distance, ``[N]``.

    The infinitesimal jackknife (Jaeckel 1972): the derivative of the distance by the weight of the
    image. With ``d = x - mu`` of an image and the optimal map
    ``T = F (F^T cov F)^(-1/2) F^T`` from the generated to the reference Gaussian, it is
    ``2 d.(mu - mu_ref) + (d.d - d.T d) N / (N - ddof)``, less its mean.

    Args:
        features: ``[N, F]``.
        drawn: their statistics, with the covariance divided by N - ``ddof``.
        factor: ``F`` of ``[F, rank]`` with ``F F^T`` the covariance of the reference.
    """
    variances, axes = np.linalg.eigh(factor.T @ drawn.cov @ factor)
    # Images vary along no other axes: with fewer images than features some variances are rounding.
    bound = max(variances.max(initial=0), 0) * len(drawn.mean) * np.finfo(np.float64).eps
    seen = variances > bound
    toward = factor @ axes[:, seen] / variances[seen] ** 0.25
    offset = 2 * (drawn.mean - reference.mean)
    scale = len(features) / (len(features) - ddof)
    effects = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        d = features[start : start + _ROWS] - drawn.mean
        mapped = np.square(d @ toward).sum(axis=1)
        spread = np.square(d).sum(axis=1) - mapped
        effects[start : start + _ROWS] = d @ offset + spread * scale
    effects -= effects.mean()
    return effects / math.sqrt(len(effects) * (len(effects) - 1))


def _stats(features: NDArray[np.float32]) -> FeatureStats:
    running = RunningStats(features.shape[1])
    for start in range(0, len(features), _ROWS):  # limits the float64 copies
        running.add(features[start : start + _ROWS])
    return running.result()


def _merged(parts: Sequence[FeatureStats]) -> FeatureStats:
    running = RunningStats(len(parts[0].mean))
    for part in parts:
        running.merge(part)
    return running.result()


def _without(whole: FeatureStats, part: FeatureStats) -> FeatureStats:
    """Statistics of the items that are not in ``part``: the inverse of a merge."""
    count = whole.count - part.count
    mean = (whole.mean * whole.count - part.mean * part.count) / count
    offset = part.mean - mean
    between = np.outer(offset, offset) * (count * part.count / whole.count)
    scatter = whole.cov * whole.count - part.cov * part.count - between
    return FeatureStats(count, mean, scatter / count)


def _quick_distance(stats: FeatureStats, reference: FeatureStats, factor: Array) -> float:
    """The distance by eigenvalues of ``F^T cov F``.

    It takes half the time. It loses half of the digits if both covariances are singular, which does
    not matter for an error.
    """
    values = np.linalg.eigvalsh(factor.T @ stats.cov @ factor)
    offset = stats.mean - reference.mean
    root_trace = np.sqrt(np.maximum(values, 0)).sum()
    traces = np.trace(stats.cov) + np.trace(reference.cov)
    return float(offset @ offset + traces - 2 * root_trace)
