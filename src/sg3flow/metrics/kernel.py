"""Kernel distance between two feature clouds (Binkowski et al. 2018)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sg3flow.errors import MetricError

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
    a, b = np.asarray(feats_a), np.asarray(feats_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MetricError(f"two sets of features [N, F] were expected, not {a.shape} and {b.shape}")
    size = min(subset_size, len(a), len(b))
    if size < 2 or num_subsets < 1:
        raise MetricError(f"{num_subsets} subsets of {size} items: at least 1 of 2 are needed")
    random = np.random.RandomState(seed)
    distances = [
        _squared_mmd(
            a[random.choice(len(a), size, replace=False)].astype(np.float64),
            b[random.choice(len(b), size, replace=False)].astype(np.float64),
        )
        for _ in range(num_subsets)
    ]
    return float(np.mean(distances))


def _squared_mmd(a: Array, b: Array) -> float:
    """Unbiased: the sums within a set leave out the diagonal, the sum across does not."""
    size, num_features = a.shape
    within = (a @ a.T / num_features + 1) ** 3 + (b @ b.T / num_features + 1) ** 3
    across = (a @ b.T / num_features + 1) ** 3
    return float((within.sum() - np.trace(within)) / (size * (size - 1)) - 2 * across.mean())
