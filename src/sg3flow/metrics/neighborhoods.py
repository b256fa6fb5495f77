"""Metrics over nearest neighbors: precision, recall, density, coverage, memorization.

Distances are float32 and computed block by block, so memory is bounded for sets of any size. The
features may stay in main memory; blocks of them are copied to the device.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import (
    Estimate,
    block_bounds,
    jackknife_error,
    jackknife_terms,
    mean_estimate,
)

_BLOCK = 4096  # a block of distances is 64 MiB of float32
CPU = torch.device("cpu")
_GAP = 4
_BACKGROUND = 255


def checked_pair(
    real: torch.Tensor, gen: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of features as float32, each with more than ``k`` items.

    Raises:
        MetricError: a set has ``k`` items or fewer, or the numbers of features differ.
    """
    real, gen = torch.as_tensor(real).float(), torch.as_tensor(gen).float()
    if real.ndim != 2 or gen.ndim != 2 or real.shape[1] != gen.shape[1]:
        shapes = f"{tuple(real.shape)} and {tuple(gen.shape)}"
        raise MetricError(f"expected two sets of features [N, F], found {shapes}")
    if not 1 <= k < min(len(real), len(gen)):
        raise MetricError(
            f"neighbor {k} needs more than {k} items in each set, not {len(real)} and {len(gen)}"
        )
    return real, gen


def neighbor_radii(items: torch.Tensor, k: int, device: torch.device) -> torch.Tensor:
    """Distance of each item to its ``k``-th nearest other item, ``[N]``.

    Args:
        items: features ``[N, F]``, on any device.
        device: where distances are computed.
    """
    return torch.cat([_block_radii(items, start, k, device) for start in _starts(items)])


def balls_around(
    points: torch.Tensor, centers: torch.Tensor, radii: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Number of balls that contain each point, int64 ``[N]``; ``radii`` are ``[M]``."""
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
    """Distance to the nearest of ``others`` and its index, each ``[N]``; on ties, the first."""
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
    # Fixed mode: the default uses another algorithm for small blocks.
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


def precision_recall(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """Fraction of ``gen`` in the manifold of the real set, and of ``real`` in the generated one.

    A manifold is a union of balls. The ball of an item reaches to the ``k``-th nearest other item
    of its own set (Kynkaanniemi et al. 2019).

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
    """Precision and recall with standard errors; see ``precision_recall``.

    Precision is a mean over generated items. The error of recall is a jackknife over blocks of
    generated items with fixed balls.

    Args:
        real_radii: ``[N]``, if known.
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
    """Fraction of items that any block covers, from bool ``[blocks, N]``; jackknife error."""
    times = covered.sum(dim=0)
    left_out = [float((times > block.long()).double().mean()) for block in covered]
    value = float((times > 0).double().mean())
    return Estimate(value, jackknife_error(left_out), jackknife_terms(left_out))


def density_coverage(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """Density and coverage of generated items among the real items (Naeem et al. 2020).

    The ball of a real item reaches to its ``k``-th nearest other real item. Density is the mean
    number of balls that contain a generated item, divided by ``k``; unlike precision, it does not
    become high by one outlier with a large ball. Coverage is the fraction of balls that contain a
    generated item. For two sets of one distribution the expected density is 1 and the expected
    coverage ``1 - 2^-k``.

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
    """Density and coverage with standard errors; arguments as in ``precision_recall_estimates``."""
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
    """Indices of a generated image and its nearest training image, and their distance."""

    generated: int
    training: int
    distance: float


@dataclass(frozen=True)
class Memorization:
    """Distances from generated items to their nearest training items.

    Attributes:
        authentic: fraction of generated items that are farther from their nearest training item
            than that item is from any other training item (authenticity, Alaa et al. 2022,
            Sec. 3). Copies make it low.
        distance: mean distance to the nearest training item, in units of the mean distance between
            a training item and its nearest other one.
        closest: the pairs with the smallest distances, closest first.
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
        num_pairs: number of closest pairs to return.
        real_radii: ``[N]``, distances to the nearest other item, if known.
        device: where distances are computed.

    Raises:
        MetricError: too few items, or different numbers of features.
    """
    real, gen = checked_pair(real, gen, 1)
    if real_radii is None:
        real_radii = neighbor_radii(real, 1, device)
    found, index = nearest(gen, real, device)
    authentic = mean_estimate((found > real_radii[index]).numpy())
    # If all training items are copies, the unit would be zero: distances are not scaled then.
    unit = float(real_radii.double().mean()) or 1.0
    order = found.argsort(stable=True)[:num_pairs].tolist()
    closest = [Pair(i, int(index[i]), float(found[i])) for i in order]
    return Memorization(authentic, mean_estimate(found.double().numpy() / unit), closest)


def draw_closest_pairs(
    generated: Sequence[NDArray[np.uint8]], training: Sequence[NDArray[np.uint8]]
) -> Image.Image:
    """A sheet of generated images, each with its training image below, closest pair first.

    Args:
        generated, training: lists of equal length, uint8 ``[H, W, 1 or 3]``.
    """
    pairs = [(_rgb(upper), _rgb(lower)) for upper, lower in zip(generated, training, strict=True)]
    width = max(image.width for pair in pairs for image in pair) + _GAP
    height = max(image.height for pair in pairs for image in pair) + _GAP
    size = (len(pairs) * width + _GAP, 2 * height + _GAP)
    sheet = Image.new("RGB", size, (_BACKGROUND,) * 3)
    for column, pair in enumerate(pairs):
        for row, image in enumerate(pair):
            sheet.paste(image, (_GAP + column * width, _GAP + row * height))
    return sheet


def _rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
