"""How convolutional detectors run: their memory layout, and images at a time on a CPU.

On a CPU, channels stand last in memory and few images are computed at a time: convolutions then
need no reordering, and the layers of a part stay in the caches. Results differ by rounding.
`benchmarks/metrics_speed.py` measures it.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)
_CPU_IMAGES = 4


def placed(network: Network, device: torch.device) -> Network:
    """The network on the device, its weights in the layout for it."""
    network.to(device)
    network.to(memory_format=_layout(device))  # type: ignore[call-overload]
    return network


def arranged(x: torch.Tensor) -> torch.Tensor:
    """Images ``[N, C, H, W]`` in the layout for the device that they are on."""
    return x.contiguous(memory_format=_layout(x.device))


def in_parts(
    images: torch.Tensor, device: torch.device, compute: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """``compute`` of all images ``[N, C, H, W]``, on a CPU a few at a time."""
    if device.type != "cpu":
        return compute(images)
    return torch.cat([compute(part) for part in torch.split(images, _CPU_IMAGES)])


def _layout(device: torch.device) -> torch.memory_format:
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
