"""Features of a fixed random convolutional network, for machines without pretrained weights.

Random embeddings order generators usefully where no trained ones are at hand or fit the domain
(Naeem et al. 2020). Distances over them compare with each other only, never with published FIDs.
"""

import hashlib
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sg3flow.metrics.features import as_rgb

_SEED = 20200406
_SIZE = 64
_CHANNELS = (3, 24, 40, 60)
_SLOPE = 0.2
_FLOOR = 0.05
_RULE = (
    "x / 127.5 - 1 at 64x64; then 3 times: conv 3x3, stride 2, zero padding 1, no bias, leaky ReLU "
    "0.2; features: per channel of x and of each layer, mean and log(0.05 + standard deviation)"
)


class RandomFeatures:
    """Three strided convolutions with weights drawn from a fixed seed.

    The features are pooled statistics of the picture's colours and of the channels at each depth:
    edges first, texture and layout later. Deviations enter by their logarithm, so that a loss of
    fine detail counts as much as one of strong contrast.
    """

    name = "random-conv-64"
    num_features = 2 * sum(_CHANNELS)
    resize = "64x64, bilinear with antialiasing, half-pixel centres"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        weights = _weights()
        content = hashlib.sha256(f"{_RULE}; {self.resize}".encode())
        for weight in weights:
            content.update(weight.astype("<f4").tobytes())
        self.digest = content.hexdigest()
        self._device = torch.device(device)
        self._weights = [torch.from_numpy(weight).to(self._device) for weight in weights]

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[N, 254]`` of pictures uint8 ``[N, 1 or 3, H, W]``."""
        x = as_rgb(images.to(self._device)).float() / 127.5 - 1
        if x.shape[-2:] != (_SIZE, _SIZE):
            x = functional.interpolate(x, (_SIZE, _SIZE), mode="bilinear", antialias=True)
        features = _statistics(x)
        for weight in self._weights:
            x = functional.conv2d(x, weight, stride=2, padding=1)
            x = functional.leaky_relu(x, _SLOPE)
            features += _statistics(x)
        return torch.cat(features, dim=1)


def _statistics(x: torch.Tensor) -> list[torch.Tensor]:
    return [x.mean(dim=(2, 3)), (_FLOOR + x.std(dim=(2, 3), correction=0)).log()]


def _weights() -> list[NDArray[np.float32]]:
    """He-initialised; numpy's legacy stream gives the same numbers everywhere, torch's does not.

    Each filter of the first layer sums to zero over its window: flat colour, which would drown
    everything else, reaches the features through the input's own statistics only.
    """
    random = np.random.RandomState(_SEED)
    weights = []
    for inputs, outputs in pairwise(_CHANNELS):
        weight = random.standard_normal((outputs, inputs, 3, 3))
        if inputs == _CHANNELS[0]:
            weight -= weight.mean(axis=(2, 3), keepdims=True)
        power = (weight**2).sum(axis=(1, 2, 3), keepdims=True)
        weight *= np.sqrt(2 / ((1 + _SLOPE**2) * power))
        weights.append(weight.astype(np.float32))
    return weights
