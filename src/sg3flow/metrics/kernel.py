"""Kernel distance between two feature clouds (Binkowski et al. 2018)."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate

Array = NDArray[np.float64]


def kernel_distance(
    feats_a: ArrayLike, feats_b: ArrayLike, num_subsets: int, subset_size: int, seed: int
) -> float:
    """Mean over random subsets of the unbiased squared MMD under the kernel ``(x.y / F + 1)^3``.

    Args:
        feats_a, feats_b: features, ``[N, F]`` and ``[M, F]``.
        num_subsets: how many pairs of subsets are averaged.
        subset_size: items a subset, drawn without replacement; at most the smaller set's size.
        seed: of the draws.

    Raises:
        MetricError: fewer than two items, or sets of different feature counts.
    """
    return kernel_estimate(feats_a, feats_b, num_subsets, subset_size, seed).value


def kernel_estimate(
    feats_a: ArrayLike, feats_b: ArrayLike, num_subsets: int, subset_size: int, seed: int
) -> Estimate:
    """The kernel distance with its error over other draws of ``feats_b``.

    To first order the squared MMD is a mean over items of ``b`` (Hoeffding 1948): of twice their
    mean kernel with the others minus that with ``a``. The subsets give the variance of those
    terms, and what drawing subsets adds. Memory is that of one pair of subsets.
    """
    a, b = np.asarray(feats_a), np.asarray(feats_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MetricError(f"two sets of features [N, F] were expected, not {a.shape} and {b.shape}")
    size = min(subset_size, len(a), len(b))
    if size < 2 or num_subsets < 1:
        raise MetricError(f"{num_subsets} subsets of {size} items: at least 1 of 2 are needed")
    random = np.random.RandomState(seed)
    found = np.array(
        [
            _squared_mmd(
                a[random.choice(len(a), size, replace=False)].astype(np.float64),
                b[random.choice(len(b), size, replace=False)].astype(np.float64),
            )
            for _ in range(num_subsets)
        ]
    )
    value, variance_a, variance_b = found.mean(axis=0)
    # What is left of the sets' variance when subsets of them are averaged.
    drawing = variance_a * (1 / size - 1 / len(a)) + variance_b * (1 / size - 1 / len(b))
    return Estimate(float(value), math.sqrt(variance_b / len(b) + drawing / num_subsets))


def _squared_mmd(a: Array, b: Array) -> tuple[float, float, float]:
    """Unbiased: the sums within a set leave out the diagonal, the sum across does not.

    Also returns the variances of the first-order terms of the items of ``a`` and of ``b``.
    """
    size, num_features = a.shape
    within_a = (a @ a.T / num_features + 1) ** 3
    within_b = (b @ b.T / num_features + 1) ** 3
    across = (a @ b.T / num_features + 1) ** 3
    within = within_a.sum() - np.trace(within_a) + within_b.sum() - np.trace(within_b)
    value = float(within / (size * (size - 1)) - 2 * across.mean())
    return value, _variance(within_a, across), _variance(within_b, across.T)


def _variance(within: Array, across: Array) -> float:
    others = (within.sum(axis=1) - within.diagonal()) / (len(within) - 1)
    terms: Array = 2 * (others - across.mean(axis=1))
    return float(terms.var(ddof=1))
