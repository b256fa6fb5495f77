"""The noise maps of a StyleGAN2 generator during projection (Karras et al. 2020, App. D)."""

from typing import Any

import torch
from torch.nn import functional

_SMALLEST = 8  # side of the coarsest level of a pyramid


def noise_maps(synthesis: Any) -> list[torch.Tensor]:
    """The constant noise maps, each [R, R]; none: StyleGAN3, which has no noise."""
    named = synthesis.named_buffers()
    return [buffer for name, buffer in named if name.rpartition(".")[2] == "noise_const"]


def noise_regularization(noise: torch.Tensor) -> torch.Tensor:
    """L_ij of the paper, summed over the levels j of a noise map [R, R].

    The sum of the squared autocorrelations at a shift of one pixel, across and down, of the map and
    of its pyramid down to 8 x 8. It is 0 in expectation for white noise, so that the maps cannot
    hold a picture. The map wraps at its edges.
    """
    total = torch.zeros([], device=noise.device, dtype=noise.dtype)
    while True:
        for dim in (0, 1):
            total = total + (noise * noise.roll(1, dim)).mean().square()
        if noise.shape[0] <= _SMALLEST:
            return total
        # A mean of four, times 2, keeps the variance of white noise.
        noise = functional.avg_pool2d(noise[None, None], 2)[0, 0] * 2


def renormalize(noise: torch.Tensor) -> None:
    """Shift and scale a noise map in place to zero mean and unit variance."""
    with torch.no_grad():
        noise -= noise.mean()
        noise *= noise.square().mean().rsqrt()
