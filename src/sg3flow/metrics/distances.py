"""Frechet distance (Heusel et al. 2017, Eq. 6) between features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg.lapack import dpstrf

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, block_bounds, jackknife_error
from sg3flow.metrics.frechet_error import Against, frechet_terms, left_out_distances

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
    a, b = FeatureStats(0, mean_a, matrix_a), FeatureStats(0, mean_b, matrix_b)
    return _distance(a, _factor(matrix_a), b)


def _distance(a: "FeatureStats", factor_a: Array, b: "FeatureStats") -> float:
    """The distance, with the factor of the covariance of ``a``."""
    product = factor_a.T @ _factor(b.cov)
    root_trace = np.linalg.svd(product, compute_uv=False).sum()
    offset = a.mean - b.mean
    distance = offset @ offset + np.trace(a.cov) + np.trace(b.cov) - 2 * root_trace
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
    factor[order - 1] = np.tril(lower[:, :rank])
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
        between = np.outer(offset, offset)
        between *= self.count * count / total
        self._scatter += between
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
    whole, real = _stats(features), reference.unbiased(ddof)
    drawn = whole.unbiased(ddof)
    _check(real.mean, real.cov, drawn.mean, drawn.cov)
    factor = _factor(real.cov)
    against = Against(real.mean, float(np.trace(real.cov)), factor, ddof)
    distance = _distance(real, factor, drawn)
    del whole, real, drawn  # each covariance of 2048 features has 32 MiB
    left_out, sums = left_out_distances(features, against)
    if not left_out:
        return Estimate(distance, None)
    return Estimate(distance, jackknife_error(left_out), frechet_terms(features, sums, against))


def _stats(features: NDArray[np.float32]) -> FeatureStats:
    """Statistics of features, merged from those of blocks of them."""
    merged = RunningStats(features.shape[1])
    for start, end in block_bounds(len(features)):
        block = RunningStats(features.shape[1])
        for first in range(start, end, _ROWS):  # limits the float64 copies
            block.add(features[first : min(first + _ROWS, end)])
        stats = block.result()
        del block  # its sums have as many bytes as the covariance
        merged.merge(stats)
    return merged.result()
