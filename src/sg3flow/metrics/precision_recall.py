"""Improved precision and recall of a generator (Kynkaanniemi et al. 2019)."""

import torch

from sg3flow.errors import MetricError

_BLOCK = 4096  # a block of distances is 64 MiB of float32


def precision_recall(real: torch.Tensor, gen: torch.Tensor, k: int) -> tuple[float, float]:
    """Share of ``gen`` inside the real set's manifold, and of ``real`` inside the generated one's.

    An item spans a ball up to the ``k``-th nearest other item of its own set; a manifold is the
    union of such balls. Distances are float32 and taken block by block, so that memory stays
    bounded whatever the sizes.

    Args:
        real, gen: features, ``[N, F]`` and ``[M, F]``, on one device.
        k: which neighbour bounds a ball, from 1.

    Returns:
        Precision and recall, in [0, 1].

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
    return _share_inside(gen, real, k), _share_inside(real, gen, k)


def _share_inside(items: torch.Tensor, manifold: torch.Tensor, k: int) -> float:
    radii = _radii(manifold, k)
    blocks = list(zip(torch.split(manifold, _BLOCK), torch.split(radii, _BLOCK), strict=True))
    count = 0
    for rows in torch.split(items, _BLOCK):
        inside = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for columns, bound in blocks:
            inside |= (_distances(rows, columns) <= bound).any(dim=1)
        count += int(inside.sum())
    return count / len(items)


def _radii(items: torch.Tensor, k: int) -> torch.Tensor:
    """Distance of each item to its ``k``-th nearest other, ``[N]``."""
    return torch.cat([_block_radii(items, start, k) for start in range(0, len(items), _BLOCK)])


def _block_radii(items: torch.Tensor, start: int, k: int) -> torch.Tensor:
    rows = items[start : start + _BLOCK]
    nearest = rows.new_full((len(rows), k), torch.inf)
    for offset in range(0, len(items), _BLOCK):
        distances = _distances(rows, items[offset : offset + _BLOCK])
        if offset == start:
            distances.fill_diagonal_(torch.inf)
        nearest = torch.cat([nearest, distances], dim=1).topk(k, dim=1, largest=False).values
    return nearest.amax(dim=1)


def _distances(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    # One way for all sizes: the default changes its arithmetic for small blocks.
    return torch.cdist(rows, columns, compute_mode="use_mm_for_euclid_dist")
