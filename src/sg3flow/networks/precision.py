"""Which 16-bit format the layers in half precision use."""

import torch
from torch import nn


def use_bfloat16(network: nn.Module) -> None:
    """Let the layers that run in half precision on a GPU take bfloat16 in place of float16.

    It has float32's range, so that nothing overflows, and three digits in place of four. Weights
    and snapshots are float32 either way.
    """
    for module in network.modules():
        if hasattr(module, "half_dtype"):
            setattr(module, "half_dtype", torch.bfloat16)  # noqa: B010
