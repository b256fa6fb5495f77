"""How far apart two images are: what projection and pivotal tuning minimize.

A distance has two steps, ``features`` of an image and a number ``between`` two sets of features, so
that the features of the target are computed once.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from sg3flow.config import PROJECTION_LOSSES
from sg3flow.errors import ConfigError, MetricError
from sg3flow.metrics.features.vgg import Lpips, load_heads, load_vgg

Features = Sequence[torch.Tensor]

_COARSEST = 4  # side of the last level of the pixel pyramid
_LARGEST, _SMALLEST = 256, 32  # sides that VGG16 sees (Karras et al. 2020, App. D), and can see
_MOST_DECIBELS = 100.0


class Distance(Protocol):
    """A differentiable distance of images float32 [1, C, R, R] in [-1, 1]."""

    def features(self, img: torch.Tensor) -> Features: ...
    def between(self, a: Features, b: Features) -> torch.Tensor: ...


class PixelDistance:
    """Mean squared error, averaged over a pyramid of resolutions down to 4 x 4.

    At full resolution alone, the gradient of a shape that is a few pixels off is almost zero.
    """

    def features(self, img: torch.Tensor) -> Features:
        """The pyramid, the finest level first: [1, C, R, R], [1, C, R/2, R/2], …"""
        levels = [img]
        while levels[-1].shape[-1] >= 2 * _COARSEST:
            levels.append(functional.avg_pool2d(levels[-1], 2))
        return levels

    def between(self, a: Features, b: Features) -> torch.Tensor:
        """The distance of two pyramids, []."""
        errors = [(x - y).square().mean() for x, y in zip(a, b, strict=True)]
        return torch.stack(errors).mean()


class PerceptualDistance:
    """Distance of features of VGG16, with or without the learned heads of LPIPS.

    Images above 256 pixels are averaged down to that side (Karras et al. 2020, App. D).
    """

    def __init__(self, lpips: Lpips) -> None:
        self._lpips = lpips

    def features(self, img: torch.Tensor) -> Features:
        """The normalized features of the five stages."""
        if img.shape[-1] > _LARGEST:
            img = functional.avg_pool2d(img, img.shape[-1] // _LARGEST)
        return self._lpips.features(img)

    def between(self, a: Features, b: Features) -> torch.Tensor:
        """The distance of two sets of features, []."""
        return self._lpips.between(a, b)[0]


def open_distance(name: str, device: torch.device, resolution: int) -> Distance:
    """The distance of a name: ``pixels``, ``lpips`` or ``vgg``.

    - ``pixels``: squared error over a pyramid; needs no weights.
    - ``lpips``: the learned distance of Zhang et al. 2018, version 0.1 with VGG16.
    - ``vgg``: the same features without its learned heads, every channel with weight 1.

    Args:
        resolution: side of the images.

    Raises:
        ConfigError: there is no such distance, or the images are too small for it.
        MetricError: its weights are not available.
    """
    if name not in PROJECTION_LOSSES:
        raise ConfigError(f"loss must be one of {', '.join(PROJECTION_LOSSES)}, not '{name[:60]}'")
    if name == "pixels":
        return PixelDistance()
    if resolution < _SMALLEST:
        raise ConfigError(
            f"--loss {name} needs images of at least {_SMALLEST} pixels, and this network makes "
            f"{resolution}; use --loss pixels"
        )
    try:
        heads = load_heads() if name == "lpips" else [torch.ones(1, 1, 1, 1)] * 5
        return PerceptualDistance(Lpips(load_vgg(fully_connected=False), heads, device))
    except MetricError as error:
        raise MetricError(
            f"--loss {name} needs weights: {error.__cause__ or error}; --loss pixels needs none"
        ) from None


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two images in [-1, 1] in dB; 100 or more is 100.

    Values outside of the range count as its ends, as in a picture.
    """
    error = (a.detach().float().clamp(-1, 1) - b.float().clamp(-1, 1)).square().mean().item()
    return decibels(error, peak=2.0)


def decibels(error: float, peak: float) -> float:
    """The ratio of a squared peak to a mean squared error in dB; at most 100."""
    if error <= 0:
        return _MOST_DECIBELS
    return min(10 * math.log10(peak * peak / error), _MOST_DECIBELS)
