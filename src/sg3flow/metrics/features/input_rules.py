"""How each tool turns images into the input of Inception: resizing to 299x299, and scaling.

The network is the same in all of them, so these rules and the divisor of the covariance are what
makes their numbers differ. `make peers` compares each rule with the tool it is named after.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

SIDE = 299
_BICUBIC = -0.5  # Pillow's; OpenCV and torch without antialiasing use -0.75


@dataclass(frozen=True)
class InputRule:
    """A rule for the input of Inception.

    Attributes:
        resize: the rule in words, for reports. It is part of the key of every cached reference, so
            no two rules may have the same words.
        prepare: float32 ``[N, 3, 299, 299]`` of images uint8 ``[N, 3, H, W]``.
    """

    resize: str
    prepare: Callable[[torch.Tensor], torch.Tensor]


def tf1_resize(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """TensorFlow 1's ``resize_bilinear``: source = destination * in / out, no half-pixel shift.

    No averaging when an image shrinks; the last row and column repeat when it grows.

    Args:
        x: float32 ``[N, C, H, W]``.
    """
    top, bottom, y = _sources(x.shape[2], height, x.device)
    left, right, fraction = _sources(x.shape[3], width, x.device)
    rows = torch.lerp(x[:, :, top], x[:, :, bottom], y[:, None])
    return torch.lerp(rows[..., left], rows[..., right], fraction)


def _sources(
    size_in: int, size_out: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lower and upper source index and the fraction between them, each ``[size_out]``."""
    position = torch.arange(size_out, device=device) * (size_in / size_out)
    lower = position.long()
    return lower, (lower + 1).clamp(max=size_in - 1), position - lower


def pillow_bicubic(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pillow's bicubic resizing of channels in float32, whose window grows as an image shrinks.

    Rows first, then columns, as products with the weights of each side. torch's own bicubic with
    antialiasing rounds the weights: it is up to 0.006 of 255 away from Pillow, this is 0.0001.

    Args:
        x: float32 ``[N, C, H, W]``.
    """
    across = _bicubic_weights(x.shape[3], width).to(x.device)
    down = _bicubic_weights(x.shape[2], height).to(x.device)
    return down @ (x @ across.T)


@lru_cache(maxsize=16)
def _bicubic_weights(size_in: int, size_out: int) -> torch.Tensor:
    """Weights of the sources of each destination, float32 ``[size_out, size_in]``."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)  # the window covers more pixels when an image shrinks
    center = ((np.arange(size_out) + 0.5) * scale)[:, None]
    source = np.arange(size_in)
    inside = (source >= np.floor(center - 2 * stretch + 0.5)) & (
        source < np.floor(center + 2 * stretch + 0.5)
    )
    weights = np.where(inside, _cubic(np.abs(source + 0.5 - center) / stretch), 0.0)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).float()


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel (Keys 1981) at distances ``x >= 0``."""
    a = _BICUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _centered(x: torch.Tensor) -> torch.Tensor:
    return (x - 128) / 128


def _official(images: torch.Tensor) -> torch.Tensor:
    return _centered(tf1_resize(images.float(), SIDE, SIDE))


def _clean(images: torch.Tensor) -> torch.Tensor:
    return _centered(pillow_bicubic(images.float(), SIDE, SIDE).clamp(0, 255))  # and not rounded


def _pytorch_fid(images: torch.Tensor) -> torch.Tensor:
    return 2 * functional.interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear") - 1


def _torchmetrics(images: torch.Tensor) -> torch.Tensor:
    resized = functional.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return _centered(resized)


OFFICIAL = InputRule("299x299, TensorFlow 1 bilinear without antialiasing", _official)
INPUT_RULES = {
    "inception": OFFICIAL,
    "inception_clean": InputRule(
        "299x299, clean-fid 0.1.35: Pillow bicubic with antialiasing in float, cut to 0..255",
        _clean,
    ),
    "inception_pytorch": InputRule(
        "299x299, pytorch-fid 0.3.0: bilinear without antialiasing, half-pixel centers, "
        "of x / 255, then 2 x - 1",
        _pytorch_fid,
    ),
    "inception_torch_fidelity": InputRule(
        "299x299, torch-fidelity 0.4.0: TensorFlow 1 bilinear without antialiasing", _official
    ),
    "inception_torchmetrics": InputRule(
        "299x299, torchmetrics 1.9.0: bilinear with antialiasing, half-pixel centers",
        _torchmetrics,
    ),
}
