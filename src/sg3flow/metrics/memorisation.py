"""Whether a generator repeats its training pictures."""

from dataclasses import dataclass

import torch

from sg3flow.metrics.estimates import Estimate, mean_estimate
from sg3flow.metrics.neighbours import checked_pair, nearest, neighbour_radii
from sg3flow.metrics.precision_recall import CPU


@dataclass(frozen=True)
class Pair:
    """A generated picture and the training picture nearest to it, by index, and how far."""

    generated: int
    training: int
    distance: float


@dataclass(frozen=True)
class Memorisation:
    """How generated items lie to their nearest training items.

    Attributes:
        authentic: share of generated items that are farther from their nearest training item than
            that one is from any other training item: the authenticity of Alaa et al. (2022,
            Sec. 3). Copies make it low.
        distance: mean distance to the nearest training item, in units of the mean distance from a
            training item to its nearest other.
        closest: the pairs with the smallest distances, the nearest first.
    """

    authentic: Estimate
    distance: Estimate
    closest: list[Pair]


def memorisation(
    real: torch.Tensor,
    gen: torch.Tensor,
    num_pairs: int,
    *,
    real_radii: torch.Tensor | None = None,
    device: torch.device = CPU,
) -> Memorisation:
    """Compare each generated item with its nearest training item.

    Args:
        real, gen: features, ``[N, F]`` and ``[M, F]``, at least two each.
        num_pairs: how many of the closest pairs are named.
        real_radii: ``[N]``, distances to the nearest other, if they are known.
        device: where distances are computed.

    Raises:
        MetricError: too few items, or the feature counts differ.
    """
    real, gen = checked_pair(real, gen, 1)
    if real_radii is None:
        real_radii = neighbour_radii(real, 1, device)
    found, index = nearest(gen, real, device)
    authentic = mean_estimate((found > real_radii[index]).numpy())
    # Training sets of copies only have no unit of length: then distances stay as they are.
    unit = float(real_radii.double().mean()) or 1.0
    order = found.argsort(stable=True)[:num_pairs].tolist()
    closest = [Pair(i, int(index[i]), float(found[i])) for i in order]
    return Memorisation(authentic, mean_estimate(found.double().numpy() / unit), closest)
