"""Vendi score (Friedman and Dieng 2023): the effective number of different images in a set.

It needs no reference. Features are scaled to length 1, so that the kernel is their cosine.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import BLOCKS, Estimate

Array = NDArray[np.float64]
_ROWS = 1024
_LEAST = 1e-14  # eigenvalues below it are rounding; they sum to 1


def vendi_estimate(features: NDArray[np.float32]) -> Estimate:
    """``exp(-sum l log l)`` over the eigenvalues of ``K / N``, ``K`` the cosines of all pairs.

    Equal images give 1, orthogonal ones N. The eigenvalues of ``X^T X / N`` are the same, but for
    zeros: the smaller of the two matrices is decomposed, in float64.

    The error terms are those of the infinitesimal jackknife (Jaeckel 1972): with ``P = X^T X / N``
    and the entropy ``H``, the derivative of the score by the weight of image ``x`` is
    ``exp(H) (-x.log(P) x - H)``.

    Args:
        features: ``[N, F]``.

    Raises:
        MetricError: no features, or one of length 0, which has no direction.
    """
    rows = _Directions(features)
    count = len(features)
    shares, surprise = _by_features(rows) if count > features.shape[1] else _by_images(rows)
    entropy = -float((shares * np.log(shares)).sum())
    score = math.exp(entropy)
    if count < 2 * BLOCKS:
        return Estimate(score, None)
    effects = score * (surprise - surprise.mean())
    terms = effects / math.sqrt(count * (count - 1))
    return Estimate(score, float(np.sqrt(np.square(terms).sum())), terms)


class _Directions:
    """Features scaled to length 1, in blocks of float64."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        if features.ndim != 2 or len(features) == 0:
            raise MetricError(f"expected features [N, F] of some images, found {features.shape}")
        self.shape = features.shape
        self._features = features
        self.starts = range(0, len(features), _ROWS)

    def block(self, start: int) -> Array:
        return unit_rows(self._features[start : start + _ROWS])


def unit_rows(features: NDArray[np.float32]) -> Array:
    """Features ``[N, F]`` scaled to length 1.

    Raises:
        MetricError: one has length 0.
    """
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise MetricError("an image has only features of 0, which have no cosine with others")
    rows /= lengths
    return rows


def _by_features(rows: _Directions) -> tuple[Array, Array]:
    """Eigenvalues of ``P = X^T X / N``, and ``-x.log(P) x`` of each image ``[N]``."""
    count, width = rows.shape
    covariance = np.zeros((width, width))
    for start in rows.starts:
        block = rows.block(start)
        covariance += block.T @ block
    covariance /= count
    values, axes = np.linalg.eigh(covariance)
    seen = values > _LEAST
    values, axes = values[seen], axes[:, seen]
    surprise = np.empty(count)
    for start in rows.starts:
        part = np.square(rows.block(start) @ axes)
        surprise[start : start + len(part)] = -part @ np.log(values)
    return values, surprise


def _by_images(rows: _Directions) -> tuple[Array, Array]:
    """The same from ``K / N``: with its eigenvectors ``u``, ``(x_i.v_k)^2`` is ``N l_k u_ik^2``."""
    count = rows.shape[0]
    whole = np.concatenate([rows.block(start) for start in rows.starts])
    values, vectors = np.linalg.eigh(whole @ whole.T / count)
    seen = values > _LEAST
    values, vectors = values[seen], vectors[:, seen]
    surprise = -count * np.square(vectors) @ (values * np.log(values))
    return values, surprise
