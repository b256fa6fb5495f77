"""Where layers compute in half precision, and which 16-bit format they use."""

import torch
from torch import nn

_HALF_DEVICES = ("cuda",)


def has_half(device: torch.device) -> bool:
    """Whether layers that may run in half precision do so on a device."""
    return device.type in _HALF_DEVICES


def use_bfloat16(network: nn.Module) -> None:
    """Let the layers that run in half precision on a GPU take bfloat16 in place of float16.

    It has float32's range, so that nothing overflows, and three digits in place of four. Weights
    and snapshots are float32 either way.
    """
    for module in network.modules():
        if hasattr(module, "half_dtype"):
            setattr(module, "half_dtype", torch.bfloat16)  # noqa: B010
