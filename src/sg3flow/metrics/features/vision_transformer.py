"""What DINOv2 and CLIP share: attention, the two layers after it, and the input from Pillow."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from sg3flow.metrics.features import as_rgb

_AT_ONCE = 16  # images: bounds the memory of activations; a CPU is not faster with more


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
    """Scaled dot-product attention of tokens ``[N, T, W]``; the heads share the width."""
    shape = (*query.shape[:2], heads, -1)
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in (query, key, value))
    found = functional.scaled_dot_product_attention(q, k, v)  # [N, heads, T, W / heads]
    return found.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with an activation between them; four times as wide inside."""

    def __init__(self, width: int, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self._activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fc2(self._activation(self.fc1(x)))
        return found


def pillow_resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize to a square with Pillow: bicubic, window grown when shrinking, rounded to 8 bits.

    Pillow itself does it, one image at a time: its rounding is part of the published protocols.

    Args:
        images: uint8 ``[N, 3, H, W]``.

    Returns:
        uint8 ``[N, 3, size, size]``, on the CPU if anything had to be done.
    """
    if images.shape[-2:] == (size, size):
        return images
    found = np.empty((len(images), size, size, 3), np.uint8)
    for place, pixels in enumerate(images.cpu().permute(0, 2, 3, 1).contiguous().numpy()):
        resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        found[place] = np.asarray(resized)
    return torch.from_numpy(found).permute(0, 3, 1, 2)


def center_square(images: torch.Tensor) -> torch.Tensor:
    """The largest square in the middle of images ``[N, C, H, W]``; above and left if it is odd."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


class VisionFeatures:
    """Features of a vision transformer: the common part of the extractors.

    Attributes:
        input_size: side in pixels of what the network sees.
        mean, deviation: normalization of colors in [0, 1], by channel.
    """

    input_size: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    def __init__(
        self, device: torch.device | str = "cpu", network: nn.Module | None = None
    ) -> None:
        """Load the public weights, from the cache or by download.

        Args:
            network: takes the place of the public one, for checks.

        Raises:
            MetricError: they are not available; the message says where to put them by hand.
        """
        self._device = torch.device(device)
        self._network = (self.load() if network is None else network).to(self._device)
        self._mean = torch.tensor(self.mean, device=self._device)[:, None, None]
        self._deviation = torch.tensor(self.deviation, device=self._device)[:, None, None]

    @classmethod
    def load(cls) -> nn.Module:
        """The network with its public weights, from normalized images to features ``[N, F]``."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[N, F]`` of images uint8 ``[N, 1 or 3, H, W]``."""
        parts = torch.split(as_rgb(images), _AT_ONCE)
        return torch.cat([self._network(self.prepared(part)) for part in parts])

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """Input of the network, float32 ``[N, 3, size, size]``, of uint8 ``[N, 3, H, W]``."""
        x = pillow_resize(images, self.input_size).to(self._device).float() / 255
        return (x - self._mean) / self._deviation
