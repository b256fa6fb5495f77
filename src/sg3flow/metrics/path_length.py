"""Perceptual path length in W between neighboring points (Karras et al. 2019, Sec. 4.1).

The distance is LPIPS v0.1 (Zhang et al. 2018) with torchvision's VGG16; ``vgg.py`` says how this
differs from the network of published values.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, mean_estimate
from sg3flow.metrics.features.vgg import HEADS_SHA256, VGG16, VGG_SHA256, load_heads, load_vgg
from sg3flow.metrics.generation import MeasuredGenerator

_EPSILON = 1e-4
_LARGEST = 256
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_TINY = 1e-10


class Lpips:
    """Learned perceptual distance of images, summed over the five stages of VGG16."""

    name = "lpips-0.1-vgg16-torchvision"
    digest = hashlib.sha256(f"{VGG_SHA256} {HEADS_SHA256}".encode()).hexdigest()
    resize = "averaged down to 256 pixels where larger"

    def __init__(self, network: VGG16, heads: list[torch.Tensor], device: torch.device) -> None:
        self._device = device
        self._network = network.to(device)
        self._heads = [head.to(device) for head in heads]
        self._shift = torch.tensor(_SHIFT, device=device)[:, None, None]
        self._scale = torch.tensor(_SCALE, device=device)[:, None, None]

    @classmethod
    def load(cls, device: torch.device) -> "Lpips":
        """Load the public weights, from the cache or by download.

        Raises:
            MetricError: they are not available; the message says where to put them by hand.
        """
        heads = load_heads()  # the small file first
        return cls(load_vgg(fully_connected=False), heads, device)

    @torch.no_grad()
    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Distances float32 ``[N]`` of images float32 ``[N, 3, H, W]`` in [-1, 1]."""
        stages = zip(self._stages(a), self._stages(b), self._heads, strict=True)
        found = [((x - y).square() * head).sum(dim=1).mean(dim=(1, 2)) for x, y, head in stages]
        return torch.stack(found).sum(dim=0)

    def _stages(self, img: torch.Tensor) -> list[torch.Tensor]:
        x = (img.to(self._device).expand(-1, 3, -1, -1) - self._shift) / self._scale
        return [_unit(stage) for stage in self._network.stages(x)]


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + _TINY)


@torch.no_grad()
def path_lengths(
    G: MeasuredGenerator,
    lpips: Lpips,
    ends: Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> Iterator[torch.Tensor]:
    """Squared length of the first 1/10000 of each path, divided by 1/10000 squared, ``[N]``.

    Args:
        ends: batches of the first ``z``, the last ``z``, and their common ``c``.

    Raises:
        MetricError: a pixel is not finite.
    """
    for z_from, z_to, c in ends:
        begin, end = G.mapping(z_from, c), G.mapping(z_to, c)
        pictures = [
            _shrunk(G.synthesis(ws, noise_mode="const", force_fp32=True))
            for ws in (begin, torch.lerp(begin, end, _EPSILON))
        ]
        if not all(torch.isfinite(img).all() for img in pictures):
            raise MetricError("the network generates values that are not finite")
        yield lpips(*pictures).double().cpu() / _EPSILON**2


def _shrunk(img: torch.Tensor) -> torch.Tensor:
    factor = img.shape[-1] // _LARGEST
    return functional.avg_pool2d(img, factor) if factor > 1 else img


def path_length(lengths: ArrayLike) -> Estimate:
    """Mean of the values from the 1st to the 99th percentile, with its standard error."""
    values = np.asarray(lengths, dtype=np.float64)
    low, high = np.percentile(values, 1, method="lower"), np.percentile(values, 99, method="higher")
    return mean_estimate(values[(values >= low) & (values <= high)])
