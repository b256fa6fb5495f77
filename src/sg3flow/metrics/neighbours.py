"""Nearest neighbours among features, block by block: memory stays bounded whatever the sizes.

Distances are float32. Features may stay in main memory; blocks of them travel to the device.
"""

from collections.abc import Iterator

import torch

from sg3flow.errors import MetricError

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


def neighbour_radii(items: torch.Tensor, k: int, device: torch.device) -> torch.Tensor:
    """Distance of each item to its ``k``-th nearest other, ``[N]``.

    Args:
        items: features ``[N, F]``, anywhere.
        device: where distances are computed.
    """
    return torch.cat([_block_radii(items, start, k, device) for start in _starts(items)])


def balls_around(
    points: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """How many balls hold each point, int64 ``[N]``; ``radii [M]`` are those of ``centres``."""
    counts = torch.zeros(len(points), dtype=torch.int64)
    for start, rows in _blocks(points, device):
        for offset, columns in _blocks(centres, device):
            bound = radii[offset : offset + _BLOCK].to(device)
            inside = (distances(rows, columns) <= bound).sum(dim=1)
            counts[start : start + _BLOCK] += inside.cpu()
    return counts


def reached(
    centres: torch.Tensor, radii: torch.Tensor, points: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Whether any of ``points`` lies in each centre's ball, bool ``[M]``."""
    return nearest(centres, points, device)[0] <= radii


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
