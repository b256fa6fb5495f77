"""Resampling filters and the alias-free nonlinearity as plain ops of fixed sizes, for export.

The ops of ``sg3flow.ops`` divide planes into groups, read values to decide, and call kernels, none
of which another program can repeat. Here each pass is one depthwise convolution, whose paddings
follow from sizes that the architecture fixes; only the batch is free. Everything is float32.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]  # (x0, x1, y0, y1)


class _Crop(NamedTuple):
    """One axis of an upsampling: arguments of the transposed convolution, then a crop or pad."""

    padding: int
    output_padding: int
    rest: Pair  # zeros to add before and after, negative to crop


class FirPass(nn.Module):
    """One pass of `upfirdn2d` with a 2-D kernel.

    Args:
        channels: of the input.
        kernel: [height, width], with its gain; convolved, not correlated.
        up, down: (x, y); one of them (1, 1).
        padding: in upsampled samples; negative crops.
        size: (height, width) of the input.

    Attributes:
        size: (height, width) of the result.
    """

    kernel: torch.Tensor

    def __init__(
        self,
        channels: int,
        kernel: torch.Tensor,
        up: Pair,
        down: Pair,
        padding: Padding,
        size: Pair,
    ) -> None:
        super().__init__()
        assert (1, 1) in (up, down)
        self.channels, self.is_upsampling, self.padding = channels, up != (1, 1), padding
        self.stride = (up[1], up[0]) if self.is_upsampling else (down[1], down[0])
        taps_y, taps_x = kernel.shape
        x0, x1, y0, y1 = padding
        self.size = (
            (size[0] * up[1] + y0 + y1 - taps_y) // down[1] + 1,
            (size[1] * up[0] + x0 + x1 - taps_x) // down[0] + 1,
        )
        self.across, self.along = _crop(taps_x, up[0], x0, x1), _crop(taps_y, up[1], y0, y1)
        # Only the transposed convolution of torch is a true one.
        stored = kernel if self.is_upsampling else kernel.flip((0, 1))
        self.register_buffer("kernel", stored.to(torch.float32).contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, *size of the input] -> [N, channels, *self.size]."""
        # Expanded here: a file would otherwise hold the filter once per channel.
        kernel = self.kernel.expand(self.channels, 1, -1, -1)
        if not self.is_upsampling:
            x = _padded(x, self.padding)
            return F.conv2d(x, kernel, stride=self.stride, groups=self.channels)
        y = F.conv_transpose2d(
            x,
            kernel,
            stride=self.stride,
            padding=(self.along.padding, self.across.padding),
            output_padding=(self.along.output_padding, self.across.output_padding),
            groups=self.channels,
        )
        return _padded(y, (*self.across.rest, *self.along.rest))


def _crop(taps: int, up: int, before: int, after: int) -> _Crop:
    """Turn padding into a crop of the full convolution of (size - 1) * up + taps samples."""
    head, tail = taps - 1 - before, taps - up - after  # samples to drop at either end
    if 0 <= head - tail < up and tail >= 0:
        return _Crop(head, head - tail, (0, 0))
    padding = max(min(head, tail), 0)
    return _Crop(padding, 0, (padding - head, padding - tail))


def _padded(x: torch.Tensor, padding: Padding) -> torch.Tensor:
    """Zeros around an image; negative numbers crop it."""
    return F.pad(x, list(padding)) if any(padding) else x


def fir_passes(
    channels: int,
    f: torch.Tensor | None,
    size: Pair,
    up: int = 1,
    down: int = 1,
    padding: Padding = (0, 0, 0, 0),
    gain: float = 1,
) -> tuple[nn.Sequential, Pair]:
    """`upfirdn2d` as passes, two for a separable filter, and the (height, width) of the result.

    Args:
        f: [height, width], [taps] (separable) or None (the identity).
        up, down: of both axes; one of them 1.
    """
    x0, x1, y0, y1 = padding
    if f is None:
        if up == down == 1 and gain == 1 and not any(padding):
            return nn.Sequential(), size
        f = torch.ones(1, 1)
    if f.ndim == 2:
        only = FirPass(channels, f * gain, (up, up), (down, down), padding, size)
        return nn.Sequential(only), only.size
    taps = f * math.sqrt(gain)
    across = FirPass(channels, taps[None], (up, 1), (down, 1), (x0, x1, 0, 0), size)
    along = FirPass(channels, taps[:, None], (1, up), (1, down), (0, 0, y0, y1), across.size)
    return nn.Sequential(across, along), along.size


class FilteredLRelu(nn.Module):
    """(1) Add the bias; (2) upsample; (3) leaky ReLU, gain, clamp; (4) downsample.

    The positive gain commutes with the nonlinearity: it is part of the second filter. Arguments as
    in `sg3flow.ops.filtered_lrelu`, for images of a fixed (height, width).
    """

    bias: torch.Tensor

    def __init__(
        self,
        bias: torch.Tensor,
        fu: torch.Tensor | None,
        fd: torch.Tensor | None,
        size: Pair,
        up: int,
        down: int,
        padding: Padding,
        gain: float,
        slope: float,
        clamp: float | None,
    ) -> None:
        super().__init__()
        channels = len(bias)
        self.register_buffer("bias", bias.to(torch.float32).clone())
        self.up, middle = fir_passes(channels, fu, size, up, 1, padding, up * up)
        self.down, self.size = fir_passes(channels, fd, middle, 1, down, gain=gain)
        self.slope, self.limit = slope, None if clamp is None else clamp / gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, height, width] -> [N, C, *self.size]."""
        x = self.up(x + self.bias[:, None, None])
        if self.slope != 1:
            x = F.leaky_relu(x, self.slope)
        if self.limit is not None:
            x = x.clamp(-self.limit, self.limit)
        y: torch.Tensor = self.down(x)
        return y
