"""Improved precision and recall of a generator (Kynkaanniemi et al. 2019)."""

import torch

from sg3flow.metrics.estimates import Estimate, block_bounds, jackknife_error, mean_estimate
from sg3flow.metrics.neighbours import balls_around, checked_pair, neighbour_radii

CPU = torch.device("cpu")


def precision_recall(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """Share of ``gen`` inside the real set's manifold, and of ``real`` inside the generated one's.

    An item spans a ball up to the ``k``-th nearest other item of its own set; a manifold is the
    union of such balls. Distances are float32 and taken block by block, so that memory stays
    bounded whatever the sizes.

    Args:
        real, gen: features, ``[N, F]`` and ``[M, F]``.
        k: which neighbour bounds a ball, from 1.

    Returns:
        Precision and recall, in [0, 1].

    Raises:
        MetricError: a set has no ``k`` other items, or the feature counts differ.
    """
    precision, recall = precision_recall_estimates(real, gen, k)
    return precision.value, recall.value


def precision_recall_estimates(
    real: torch.Tensor,
    gen: torch.Tensor,
    k: int,
    *,
    real_radii: torch.Tensor | None = None,
    device: torch.device = CPU,
) -> tuple[Estimate, Estimate]:
    """Precision and recall with their errors; other arguments and errors as there.

    Precision is a mean over generated items. Recall's error comes from leaving out blocks of them,
    whose balls keep their size.

    Args:
        real_radii: ``[N]``, if they are known.
        device: where distances are computed.
    """
    real, gen = checked_pair(real, gen, k)
    if real_radii is None:
        real_radii = neighbour_radii(real, k, device)
    precise = balls_around(gen, real, real_radii, device) > 0
    gen_radii = neighbour_radii(gen, k, device)
    recalled = [
        balls_around(real, gen[start:end], gen_radii[start:end], device) > 0
        for start, end in block_bounds(len(gen))
    ]
    return mean_estimate(precise.numpy()), covered_estimate(torch.stack(recalled))


def covered_estimate(covered: torch.Tensor) -> Estimate:
    """Share of items that any block covers, from bool ``[blocks, N]``; error by leaving one out."""
    times = covered.sum(dim=0)
    left_out = [float((times > block.long()).double().mean()) for block in covered]
    return Estimate(float((times > 0).double().mean()), jackknife_error(left_out))
