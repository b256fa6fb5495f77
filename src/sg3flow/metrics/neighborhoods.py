"""Nearest neighbors among features, block by block: memory stays bounded whatever the sizes.

Distances are float32. Features may stay in main memory; blocks of them travel to the device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, block_bounds, jackknife_error, mean_estimate

_BLOCK = 4096  # a block of distances is 64 MiB of float32


def checked_pair(
    real: torch.Tensor, gen: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of features as float32, each with more than ``k`` items.

    Raises:
        MetricError: a set has no ``k`` other items, or the feature counts differ.
    """
    real, gen = torch.as_tensor(real).float(), torch.as_tensor(gen).float()
    if real.ndim != 2 or gen.ndim != 2 or real.shape[1] != gen.shape[1]:
        shapes = f"{tuple(real.shape)} and {tuple(gen.shape)}"
        raise MetricError(f"two sets of features [N, F] were expected, not {shapes}")
    if not 1 <= k < min(len(real), len(gen)):
        raise MetricError(
            f"neighbour {k} needs more than {k} items a set; there are {len(real)} and {len(gen)}"
        )
    return real, gen


def neighbor_radii(items: torch.Tensor, k: int, device: torch.device) -> torch.Tensor:
    """Distance of each item to its ``k``-th nearest other, ``[N]``.

    Args:
        items: features ``[N, F]``, anywhere.
        device: where distances are computed.
    """
    return torch.cat([_block_radii(items, start, k, device) for start in _starts(items)])


def balls_around(
    points: torch.Tensor, centers: torch.Tensor, radii: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """How many balls hold each point, int64 ``[N]``; ``radii [M]`` are those of ``centers``."""
    counts = torch.zeros(len(points), dtype=torch.int64)
    for start, rows in _blocks(points, device):
        for offset, columns in _blocks(centers, device):
            bound = radii[offset : offset + _BLOCK].to(device)
            inside = (distances(rows, columns) <= bound).sum(dim=1)
            counts[start : start + _BLOCK] += inside.cpu()
    return counts


def reached(
    centers: torch.Tensor, radii: torch.Tensor, points: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Whether any of ``points`` lies in each center's ball, bool ``[M]``."""
    return nearest(centers, points, device)[0] <= radii


def nearest(
    points: torch.Tensor, others: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance to the nearest of ``others`` and its index, each ``[N]``; of equals, the first."""
    best = torch.full((len(points),), torch.inf)
    index = torch.zeros(len(points), dtype=torch.int64)
    for start, rows in _blocks(points, device):
        part = slice(start, start + _BLOCK)
        for offset, columns in _blocks(others, device):
            found, where = (t.cpu() for t in distances(rows, columns).min(dim=1))
            closer = found < best[part]
            best[part] = torch.where(closer, found, best[part])
            index[part] = torch.where(closer, where + offset, index[part])
    return best, index


def distances(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Euclidean distances ``[N, M]``."""
    # One way for all sizes: the default changes its arithmetic for small blocks.
    return torch.cdist(rows, columns, compute_mode="use_mm_for_euclid_dist")


def _block_radii(items: torch.Tensor, start: int, k: int, device: torch.device) -> torch.Tensor:
    rows = items[start : start + _BLOCK].to(device)
    closest = rows.new_full((len(rows), k), torch.inf)
    for offset, columns in _blocks(items, device):
        found = distances(rows, columns)
        if offset == start:
            found.fill_diagonal_(torch.inf)
        closest = torch.cat([closest, found], dim=1).topk(k, dim=1, largest=False).values
    return closest.amax(dim=1).cpu()


def _blocks(items: torch.Tensor, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
    for start in _starts(items):
        yield start, items[start : start + _BLOCK].to(device)


def _starts(items: torch.Tensor) -> range:
    return range(0, len(items), _BLOCK)


CPU = torch.device("cpu")


def precision_recall(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """Share of ``gen`` inside the real set's manifold, and of ``real`` inside the generated one's.

    An item spans a ball up to the ``k``-th nearest other item of its own set; a manifold is the
    union of such balls. Distances are float32 and taken block by block, so that memory stays
    bounded whatever the sizes.

    Args:
        real, gen: features, ``[N, F]`` and ``[M, F]``.
        k: which neighbor bounds a ball, from 1.

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
        real_radii = neighbor_radii(real, k, device)
    precise = balls_around(gen, real, real_radii, device) > 0
    gen_radii = neighbor_radii(gen, k, device)
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


def density_coverage(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """How densely ``gen`` lies among the real items, and the share of those with one of it near.

    Real items span balls up to their ``k``-th nearest other. Density is the mean number of balls
    that hold a generated item, divided by ``k``: one outlier with a large ball does not make it
    high, as it does precision. Coverage is the share of balls that hold a generated item. Two sets
    of one distribution have a density of 1 and a coverage of ``1 - 2^-k`` in expectation.

    Args:
        real, gen: features, ``[N, F]`` and ``[M, F]``.
        k: which neighbor bounds a ball, from 1.

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
        real_radii = neighbor_radii(real, k, device)
    counts = balls_around(gen, real, real_radii, device)
    covered = [
        reached(real, real_radii, gen[start:end], device) for start, end in block_bounds(len(gen))
    ]
    return mean_estimate(counts.numpy() / k), covered_estimate(torch.stack(covered))


@dataclass(frozen=True)
class Pair:
    """A generated picture and the training picture nearest to it, by index, and how far."""

    generated: int
    training: int
    distance: float


@dataclass(frozen=True)
class Memorization:
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


def memorization(
    real: torch.Tensor,
    gen: torch.Tensor,
    num_pairs: int,
    *,
    real_radii: torch.Tensor | None = None,
    device: torch.device = CPU,
) -> Memorization:
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
        real_radii = neighbor_radii(real, 1, device)
    found, index = nearest(gen, real, device)
    authentic = mean_estimate((found > real_radii[index]).numpy())
    # Training sets of copies only have no unit of length: then distances stay as they are.
    unit = float(real_radii.double().mean()) or 1.0
    order = found.argsort(stable=True)[:num_pairs].tolist()
    closest = [Pair(i, int(index[i]), float(found[i])) for i in order]
    return Memorization(authentic, mean_estimate(found.double().numpy() / unit), closest)


_GAP = 4
_PAPER = 255


def draw_closest_pairs(
    generated: Sequence[NDArray[np.uint8]], training: Sequence[NDArray[np.uint8]]
) -> Image.Image:
    """Generated pictures in the upper row, each with its training picture below, nearest first.

    Args:
        generated, training: as many, uint8 ``[H, W, 1 or 3]``.
    """
    pairs = [(_rgb(upper), _rgb(lower)) for upper, lower in zip(generated, training, strict=True)]
    width = max(image.width for pair in pairs for image in pair) + _GAP
    height = max(image.height for pair in pairs for image in pair) + _GAP
    size = (len(pairs) * width + _GAP, 2 * height + _GAP)
    sheet = Image.new("RGB", size, (_PAPER, _PAPER, _PAPER))
    for column, pair in enumerate(pairs):
        for row, image in enumerate(pair):
            sheet.paste(image, (_GAP + column * width, _GAP + row * height))
    return sheet


def _rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
