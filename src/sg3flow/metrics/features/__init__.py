"""The interface of feature extractors, public weights, and features of a random network."""

import hashlib
import pickle
from itertools import pairwise
from typing import Protocol
from zipfile import is_zipfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sg3flow.downloads import cached
from sg3flow.errors import DataError, MetricError, cut, described
from sg3flow.files import sha256_file
from sg3flow.settings import cache_folder
from sg3flow.transfers import RetryPolicy

_SEED = 20200406
_SIZE = 64
_CHANNELS = (3, 24, 40, 60)
_SLOPE = 0.2
_FLOOR = 0.05
_RULE = (
    "x / 127.5 - 1 at 64x64; then 3 times: conv 3x3, stride 2, zero padding 1, no bias, leaky ReLU "
    "0.2; features: per channel of x and of each layer, mean and log(0.05 + standard deviation)"
)
# What torch raises for a file that is no file of tensors, with lines of advice that do not fit.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError)


class FeatureExtractor(Protocol):
    """Computes feature vectors of images; extractors of equal ``digest`` give equal features.

    Attributes:
        name: name of the network, for reports.
        digest: SHA-256 of everything that determines the features: weights, and our own rules.
        num_features: length F of a vector.
        resize: how images are scaled to the input size of the network, as text.
    """

    name: str
    digest: str
    num_features: int
    resize: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[N, F]`` of images uint8 ``[N, C, H, W]``; C is 1 or 3."""
        ...


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Check images uint8 ``[N, 1 or 3, H, W]`` and repeat gray to three channels.

    Raises:
        MetricError: another shape or type.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        found = f"{images.dtype} {list(images.shape)}"
        raise MetricError(f"expected images uint8 [N, 1 or 3, H, W], found {found}")
    return images.expand(-1, 3, -1, -1)


def load_weights(
    url: str, name: str, sha256: str, max_bytes: int, what: str, is_mapped: bool = False
) -> dict[str, torch.Tensor]:
    """Tensors of a public weights file, on the CPU; nothing in the file is executed.

    Args:
        url, name, sha256, max_bytes: describe the file; see ``cached``.
        what: description of the weights, for the error.
        is_mapped: map the file into memory where its form allows it: what is not used is not read.

    Raises:
        MetricError: the file is not available, has another digest, or holds no tensors.
    """
    try:
        path = cached(url, name, sha256, max_bytes=max_bytes, policy=RetryPolicy(tries=3))
    except DataError as error:
        # The cause names the file, its digest, its address and its place on disk.
        raise MetricError(
            f"no weights of {what}: {_file_there(name)}{error}; metrics with random in their name, "
            "such as fd_random1k_full, need no download"
        ) from error
    try:
        mapped = is_mapped and is_zipfile(path)  # files before torch 1.6 cannot be mapped
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        reason = cut(str(error).partition("\n")[0])
        raise MetricError(f"{path} holds no weights of {what}: {reason}") from error
    if not isinstance(tensors, dict):
        raise MetricError(f"{path} holds no weights of {what}: found {described(tensors)}")
    return tensors


def _file_there(name: str) -> str:
    """Words about a file of another content at the place of the weights; empty: there is none."""
    path = cache_folder() / name
    if not path.is_file():
        return ""
    return f"{path} has SHA-256 {sha256_file(path)} and is another file or incomplete; "


class RandomFeatures:
    """Three strided convolutions with weights drawn from a fixed seed.

    The features are pooled statistics of the colors and of the channels at each depth: edges first,
    texture and layout later. Deviations enter as logarithms, so that a loss of fine detail counts
    as much as a loss of strong contrast.
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
        """Features float32 ``[N, 254]`` of images uint8 ``[N, 1 or 3, H, W]``."""
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
    """He initialization; numpy's legacy generator gives the same numbers everywhere, torch's not.

    Each filter of the first layer sums to zero over its window. Otherwise flat color would dominate
    all features; so it enters only through the statistics of the input.
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
