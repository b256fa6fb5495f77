"""Density and coverage of a generator (Naeem et al. 2020, Sec. 3)."""

import torch

from sg3flow.metrics.estimates import Estimate, block_bounds, mean_estimate
from sg3flow.metrics.neighbours import balls_around, checked_pair, neighbour_radii, reached
from sg3flow.metrics.precision_recall import CPU, covered_estimate


def density_coverage(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """How densely ``gen`` lies among the real items, and the share of those with one of it near.

    Real items span balls up to their ``k``-th nearest other. Density is the mean number of balls
    that hold a generated item, divided by ``k``: one outlier with a large ball does not make it
    high, as it does precision. Coverage is the share of balls that hold a generated item. Two sets
    of one distribution have a density of 1 and a coverage of ``1 - 2^-k`` in expectation.

    Args:
        real, gen: features, ``[N, F]`` and ``[M, F]``.
        k: which neighbour bounds a ball, from 1.

    Raises:
        MetricError: a set has no ``k`` other items, or the feature counts differ.
    """
    density, coverage = density_coverage_estimates(real, gen, k)
    return density.value, coverage.value


def density_coverage_estimates(
    real: torch.Tensor,
    gen: torch.Tensor,
    k: int,
    *,
    real_radii: torch.Tensor | None = None,
    device: torch.device = CPU,
) -> tuple[Estimate, Estimate]:
    """Density and coverage with their errors; arguments as for precision and recall."""
    real, gen = checked_pair(real, gen, k)
    if real_radii is None:
        real_radii = neighbour_radii(real, k, device)
    counts = balls_around(gen, real, real_radii, device)
    covered = [
        reached(real, real_radii, gen[start:end], device) for start, end in block_bounds(len(gen))
    ]
    return mean_estimate(counts.numpy() / k), covered_estimate(torch.stack(covered))
