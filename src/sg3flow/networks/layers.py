"""Layers that all networks share: equalised learning rate, minibatch statistics."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from sg3flow.ops import bias_act, conv2d_resample, setup_filter


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, Sec. 4.1).

    Weights are stored with unit variance (over `lr_multiplier`) and scaled at run time.
    """

    bias: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        bias: bool = True,
        lr_multiplier: float = 1,
        weight_init: float = 1,
        bias_init: float | Sequence[float] = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        scale = weight_init / lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * scale)
        start = torch.as_tensor(bias_init, dtype=torch.float32).expand(out_features)
        self.bias = nn.Parameter(start / lr_multiplier) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] -> [N, out_features]."""
        w = self.weight.to(x.dtype) * self.weight_gain
        b = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        if self.activation == "linear" and b is not None:
            return torch.addmm(b, x, w.t())
        return bias_act(x @ w.t(), b, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution, bias and activation with equalised learning rate, optionally halving the size.

    Frozen layers (``trainable=False``) hold buffers in place of parameters.
    """

    resample_filter: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation, self.down, self.conv_clamp = activation, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = math.sqrt(2) if activation == "lrelu" else 1.0
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        start = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if start is None else nn.Parameter(start)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", start)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """[N, C_in, H, W] -> [N, C_out, H/down, W/down]; `gain` scales the result and its clamp."""
        w = (self.weight * self.weight_gain).to(x.dtype)
        b = None if self.bias is None else self.bias.to(x.dtype)
        y = conv2d_resample(x, w, self.resample_filter, down=self.down, padding=self.padding)
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(y, b, act=self.activation, gain=self.act_gain * gain, clamp=clamp)


def normalize_2nd_moment(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """`x` scaled to unit mean square along `dim`."""
    return x * (x.square().mean(dim=dim, keepdim=True) + 1e-8).rsqrt()


def minibatch_std(x: torch.Tensor, group_size: int | None, num_channels: int) -> torch.Tensor:
    """Appends the standard deviation over groups of samples (Karras et al. 2018, Sec. 3).

    The samples of one group lie N / group apart in the batch; `group_size` None is the batch.

    Args:
        x: [N, C, H, W]; N a multiple of min(group_size, N).

    Returns:
        [N, C + num_channels, H, W].
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if group < 1 or n % group:
        raise ValueError(
            f"minibatch std: {n} images do not divide into groups of {group}; "
            "use a batch that is a multiple of mbstd_group_size"
        )
    y = x.reshape(group, n // group, num_channels, c // num_channels, h, w)
    std = (y.var(dim=0, unbiased=False) + 1e-8).sqrt()
    std = std.mean(dim=(2, 3, 4))  # [N / group, num_channels]
    extra = std.reshape(-1, num_channels, 1, 1).repeat(group, 1, h, w)
    return torch.cat([x, extra], dim=1)


def check_resolution(network: str, resolution: int, smallest: int) -> None:
    """Raises ValueError unless `resolution` is a power of two of at least `smallest`."""
    if resolution < smallest or resolution & (resolution - 1):
        raise ValueError(
            f"{network}: img_resolution must be a power of two of at least {smallest}, "
            f"not {resolution}"
        )


def half_precision_from(img_resolution: int, num_fp16_res: int) -> int:
    """The smallest resolution whose block runs in half precision on a GPU."""
    return int(max(2 ** (math.log2(img_resolution) + 1 - num_fp16_res), 8))
