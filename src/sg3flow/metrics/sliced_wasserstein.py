"""Sliced Wasserstein distance over patches of Laplacian pyramids (Karras et al. 2018, Sec. 5).

It needs no trained network. Each level of the pyramid has the detail of one scale, so the distance
over its patches measures colors and structures of that scale.
Departures from the paper: 16 patches per image, not 128 (patches of one image are similar), and the
bytes of an image determine their positions, so that results do not depend on batch or order.
"""

import hashlib
import zlib

import numpy as np
import torch
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import BLOCKS, Estimate, mean_estimate
from sg3flow.metrics.features import as_rgb

_SMALLEST = 16  # side of the last level
_PATCHES = 16  # per image and level
_SIDE = 7
_SIZE = 3 * _SIDE * _SIDE  # values per patch
_DIRECTIONS = 512
_ERROR_DIRECTIONS = 64
_AT_ONCE = 64  # directions per sort
_SCALE = 1000.0  # as published
_RULE = "RGB 0..255; Laplacian pyramid, 5x5 binomial filter, mirrored edges; patches 7x7"


class PatchFeatures:
    """Patches of every level of an image's Laplacian pyramid, from the finest to 16 pixels."""

    name = "laplacian-patches-7"
    resize = "none"

    def __init__(self, resolution: int, device: torch.device | str = "cpu") -> None:
        """Prepare for images of one resolution.

        Raises:
            MetricError: the resolution is not 16 times a power of two.
        """
        self.num_levels = _num_levels(resolution)
        self.num_features = self.num_levels * _PATCHES * _SIZE
        rule = f"{_RULE}; {_PATCHES} a level; {self.num_levels} levels"
        self.digest = hashlib.sha256(rule.encode()).hexdigest()
        self._side = resolution
        self._device = torch.device(device)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Patches float32 ``[N, levels * 16 * 147]`` of images uint8 ``[N, 1 or 3, H, W]``."""
        if images.shape[-2:] != (self._side, self._side):
            raise MetricError(
                f"swd needs images of {self._side}x{self._side}, not "
                f"{images.shape[-1]}x{images.shape[-2]}; resize the set"
            )
        draws = _positions(images)
        x = as_rgb(images.to(self._device)).float()
        patches = []
        for level in range(self.num_levels):
            smaller = _halved(x) if level < self.num_levels - 1 else None
            detail = x if smaller is None else x - _doubled(smaller)
            patches.append(_patches(detail, draws[:, level].to(self._device)))
            x = x if smaller is None else smaller
        return torch.cat(patches, dim=1)


def sliced_wasserstein(
    real: torch.Tensor, gen: torch.Tensor, num_levels: int, seed: int, device: torch.device
) -> Estimate:
    """Mean over the levels of the distance between two sets of patches, times 1000.

    The patches of a level are normalized to mean 0 and deviation 1 per color channel, with the
    statistics of their own set, projected on random directions, sorted and compared; sets of
    different size are compared by quantiles. The error is that of the mean over disjoint groups of
    images.

    Args:
        real, gen: patches ``[N, levels * 16 * 147]`` of ``PatchFeatures``.
        num_levels: levels of the pyramid.
        seed: seed of the directions.
        device: where to compute.

    Raises:
        MetricError: a set is empty.
    """
    if len(real) == 0 or len(gen) == 0:
        raise MetricError("swd needs at least one image in each set")
    value = _distance(real, gen, num_levels, _DIRECTIONS, seed, device)
    if len(gen) < 2 * BLOCKS:
        return Estimate(value, None)
    groups = [
        _distance(real, gen[block::BLOCKS], num_levels, _ERROR_DIRECTIONS, seed, device)
        for block in range(BLOCKS)
    ]
    mean = mean_estimate(groups)
    return Estimate(value, mean.standard_error, mean.terms)


def _distance(
    real: torch.Tensor,
    gen: torch.Tensor,
    num_levels: int,
    num_directions: int,
    seed: int,
    device: torch.device,
) -> float:
    random = torch.Generator().manual_seed(seed)
    width, total = _PATCHES * _SIZE, 0.0
    for level in range(num_levels):
        part = slice(level * width, (level + 1) * width)
        a, b = (_descriptors(features[:, part].to(device)) for features in (real, gen))
        directions = torch.randn(_SIZE, num_directions, generator=random)
        directions = (directions / directions.norm(dim=0)).to(device)
        for some in torch.split(directions, _AT_ONCE, dim=1):
            total += float(_sorted_difference(a @ some, b @ some).double().sum())
    return _SCALE * total / (num_levels * num_directions)


def _sorted_difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean difference of the sorted columns of ``[N, D]`` and ``[M, D]``, ``[D]``."""
    a, b = a.sort(dim=0).values, b.sort(dim=0).values
    if len(a) != len(b):
        size = min(len(a), len(b))
        a, b = _quantiles(a, size), _quantiles(b, size)
    return (a - b).abs().mean(dim=0)


def _quantiles(x: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` evenly spaced quantiles of the sorted columns ``[N, D]``."""
    position = (torch.arange(count, device=x.device) + 0.5) * (len(x) / count) - 0.5
    position = position.clamp(0, len(x) - 1)
    low = position.long()
    high = (low + 1).clamp(max=len(x) - 1)
    return torch.lerp(x[low], x[high], (position - low)[:, None])


def _descriptors(features: torch.Tensor) -> torch.Tensor:
    """Normalized patches ``[N * 16, 147]`` of one level."""
    x = features.reshape(-1, 3, _SIDE * _SIDE)
    mean = x.mean(dim=(0, 2), keepdim=True)
    deviation = x.std(dim=(0, 2), keepdim=True, correction=0)
    # The patches of a constant channel become zeros.
    return ((x - mean) / deviation.clamp(min=1e-6)).reshape(-1, _SIZE)


def _positions(images: torch.Tensor) -> torch.Tensor:
    """Positions of the patches in [0, 1), from the bytes of the image, ``[N, 12, 16, 2]``."""
    draws = [
        np.random.RandomState(zlib.crc32(image.tobytes())).random_sample((12, _PATCHES, 2))
        for image in images.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(draws))


def _patches(x: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Patches ``[N, 16 * 147]`` of images ``[N, 3, H, W]`` at ``draws [N, 16, 2]``."""
    count, side = len(x), x.shape[-1] - _SIDE + 1
    corner = (draws * side).long()
    offset = torch.arange(_SIDE, device=x.device)
    rows = (corner[..., 0, None] + offset)[..., :, None]  # [N, 16, 7, 1]
    columns = (corner[..., 1, None] + offset)[..., None, :]  # [N, 16, 1, 7]
    item = torch.arange(count, device=x.device)[:, None, None, None]
    found = x.permute(0, 2, 3, 1)[item, rows, columns]  # [N, 16, 7, 7, 3]
    return found.permute(0, 1, 4, 2, 3).reshape(count, -1)


def _halved(x: torch.Tensor) -> torch.Tensor:
    return _filtered(x)[..., ::2, ::2]


def _doubled(x: torch.Tensor) -> torch.Tensor:
    count, channels, height, width = x.shape
    spread = x.new_zeros(count, channels, 2 * height, 2 * width)
    spread[..., ::2, ::2] = x
    return 4 * _filtered(spread)


def _filtered(x: torch.Tensor) -> torch.Tensor:
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device) / 16
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 5, 5)
    return functional.conv2d(
        functional.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1]
    )


def _num_levels(resolution: int) -> int:
    levels, side = 1, resolution
    while side > _SMALLEST and side % 2 == 0:
        side, levels = side // 2, levels + 1
    if side != _SMALLEST:
        raise MetricError(
            f"swd needs images of 16, 32, 64… pixels per side, not {resolution}; resize the set"
        )
    return levels
