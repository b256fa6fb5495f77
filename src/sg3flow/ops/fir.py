"""Resampling FIR filters in plain PyTorch, for upfirdn2d and filtered_lrelu.

`FirSpec` describes one resampling step and its adjoint. `run_fir` computes it outside autograd by
strided depthwise convolutions (transposed ones for upsampling), without building the zero-inserted
signal. On a CPU it works on small groups of planes: memory that the allocator must get from the
system would cost more than the arithmetic.

Measured on one AVX-512 core in float32, 512 planes, 12 taps, in groups of 16 planes:
86x86 -> 178x178, up 2: transposed convolutions 15 ms, convolutions of the polyphase components 26,
banded matrix products 46; 178x178 -> 84x84, down 2: strided convolutions 12 ms (17 with a radial
filter), banded matrix products 46. One convolution for all planes at once is 2 to 10 times slower,
and planes as a batch (no groups) 15 times.
"""

import dataclasses
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

# Samples per group on a CPU, so that all passes over them stay in the cache. Half or twice as many
# made a training step on two cores 10 to 30 percent slower.
_GROUP_SAMPLES = 2**19


@dataclasses.dataclass(frozen=True)
class FirSpec:
    """The parameters of one upfirdn2d without its taps.

    Pairs are (x, y). `padding` is (x0, x1, y0, y1) in samples of the upsampled signal; negative
    values crop. `flip` selects correlation instead of convolution. `gain` scales the result.
    """

    up: tuple[int, int] = (1, 1)
    down: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    flip: bool = False
    gain: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether a step without taps returns its input."""
        ones = (1, 1)
        return self.up == ones and self.down == ones and not any(self.padding) and self.gain == 1

    def output_size(self, size: tuple[int, int], taps: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the result for an input of `size` and `taps`, both (height, width)."""
        x0, x1, y0, y1 = self.padding
        width = (size[1] * self.up[0] + x0 + x1 - taps[1]) // self.down[0] + 1
        height = (size[0] * self.up[1] + y0 + y1 - taps[0]) // self.down[1] + 1
        return height, width

    def adjoint(self, size: tuple[int, int], taps: tuple[int, int]) -> "FirSpec":
        """The step that computes the gradient of an input of `size`; it is an upfirdn2d, too."""
        out_height, out_width = self.output_size(size, taps)
        x0, x1 = _adjoint_padding(
            size[1], out_width, taps[1], self.up[0], self.down[0], self.padding[0]
        )
        y0, y1 = _adjoint_padding(
            size[0], out_height, taps[0], self.up[1], self.down[1], self.padding[2]
        )
        return FirSpec(self.down, self.up, (x0, x1, y0, y1), not self.flip, self.gain)


def _adjoint_padding(
    size: int, out_size: int, taps: int, up: int, down: int, before: int
) -> tuple[int, int]:
    return taps - before - 1, size * up - out_size * down + before - up + 1


def filter_taps(f: torch.Tensor | None) -> tuple[int, int]:
    """(height, width) of a filter: 2-D, 1-D (the same for both axes) or None (the identity)."""
    if f is None:
        return 1, 1
    return (f.shape[0], f.shape[0]) if f.ndim == 1 else (f.shape[0], f.shape[1])


def run_fir(x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
    """Computes one resampling step on [N, C, H, W], outside autograd."""
    size = spec.output_size((x.shape[2], x.shape[3]), filter_taps(f))
    if f is None and spec.is_identity:
        return x
    parts = plane_groups(x, max(math.prod(size), x.shape[2] * x.shape[3]))
    if len(parts) == 1:
        return resample(x, f, spec)
    planes = as_planes(x)
    y = x.new_empty(1, planes.shape[1], *size)
    for part in parts:
        y[:, part] = resample(planes[:, part], f, spec)
    return y.view(*x.shape[:2], *size)


def as_planes(x: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] as [1, N*C, H, W]."""
    return x.reshape(1, x.shape[0] * x.shape[1], x.shape[2], x.shape[3])


def plane_groups(x: torch.Tensor, samples: int) -> list[slice]:
    """Ranges of the N*C planes to process at once, by the samples of one; on a GPU, all."""
    planes = x.shape[0] * x.shape[1]
    size = planes
    if x.device.type == "cpu":  # 16 planes fill the vector registers of a depthwise convolution
        size = max(_GROUP_SAMPLES // max(samples, 1) // 16, 1) * 16
    return [slice(i, min(i + size, planes)) for i in range(0, planes, max(size, 1))]


def resample(x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
    """`run_fir` for all planes at once."""
    if f is None:
        if spec.is_identity:
            return x
        f = torch.ones(1, 1, device=x.device)
    if x.numel() == 0:
        size = spec.output_size((x.shape[2], x.shape[3]), filter_taps(f))
        return x.new_zeros(x.shape[0], x.shape[1], *size)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if f.ndim == 2:
        return _filter(x, (f.to(wide) * spec.gain).to(x.dtype), spec)
    x0, x1, y0, y1 = spec.padding
    taps = (f.to(wide) * math.sqrt(spec.gain)).to(x.dtype)
    across = FirSpec((spec.up[0], 1), (spec.down[0], 1), (x0, x1, 0, 0), spec.flip)
    along = FirSpec((1, spec.up[1]), (1, spec.down[1]), (0, 0, y0, y1), spec.flip)
    return _filter(_filter(x, taps[None, :], across), taps[:, None], along)


def _filter(x: torch.Tensor, kernel: torch.Tensor, spec: FirSpec) -> torch.Tensor:
    """One pass with a 2-D kernel; only the transposed convolution of torch is a true one."""
    upsamples = spec.up != (1, 1)
    if spec.flip == upsamples:
        kernel = kernel.flip((0, 1))
    if upsamples:
        return _upsample(x, kernel, spec)[:, :, :: spec.down[1], :: spec.down[0]]
    if kernel.numel() == 1:
        return _pad(x, spec.padding)[:, :, :: spec.down[1], :: spec.down[0]] * kernel
    x0, x1, y0, y1 = spec.padding
    pad_x, pad_y = (x0 if x0 == x1 > 0 else 0), (y0 if y0 == y1 > 0 else 0)
    rest = (x0 - pad_x, x1 - pad_x, y0 - pad_y, y1 - pad_y)
    return F.conv2d(
        _pad(x, rest),
        _depthwise(kernel, x),
        stride=(spec.down[1], spec.down[0]),
        padding=(pad_y, pad_x),
        groups=x.shape[1],
    )


def _pad(x: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """Add zeros, then crop: in this order a crop may be larger than the signal."""
    x0, x1, y0, y1 = padding
    if max(padding) > 0:
        x = F.pad(x, [max(p, 0) for p in padding])
    rows = slice(max(-y0, 0), x.shape[2] - max(-y1, 0))
    return x[:, :, rows, max(-x0, 0) : x.shape[3] - max(-x1, 0)]


def _depthwise(kernel: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return kernel[None, None].expand(x.shape[1], 1, -1, -1)


class _Crop(NamedTuple):
    """One axis of an upsampling: a transposed convolution, then a crop or pad."""

    used: slice  # the input samples that reach the output
    padding: int
    output_padding: int
    rest: tuple[int, int]  # zeros to add before and after, negative to crop


def _upsample(x: torch.Tensor, kernel: torch.Tensor, spec: FirSpec) -> torch.Tensor:
    """Upsampled and filtered, before any downsampling."""
    x0, x1, y0, y1 = spec.padding
    across = _crop(x.shape[3], kernel.shape[1], spec.up[0], x0, x1)
    along = _crop(x.shape[2], kernel.shape[0], spec.up[1], y0, y1)
    y = F.conv_transpose2d(
        x[:, :, along.used, across.used],
        _depthwise(kernel, x),
        stride=(spec.up[1], spec.up[0]),
        padding=(along.padding, across.padding),
        output_padding=(along.output_padding, across.output_padding),
        groups=x.shape[1],
    )
    rest = (*across.rest, *along.rest)
    return _pad(y, rest)


def _crop(size: int, taps: int, up: int, before: int, after: int) -> _Crop:
    """Turn upfirdn2d's padding into a crop of the full convolution of (size-1)*up+taps samples."""
    head, tail = taps - 1 - before, taps - up - after  # samples to drop at either end
    first = min(max(-(-(head - taps + 1) // up), 0), size - 1)
    last = max(min(((size - 1) * up + taps - tail - 1) // up, size - 1), first)
    used = slice(first, last + 1)
    head, tail = head - first * up, tail - (size - 1 - last) * up
    if 0 <= head - tail < up and head >= 0:
        return _Crop(used, head, head - tail, (0, 0))
    padding = max(min(head, tail), 0)
    return _Crop(used, padding, 0, (padding - head, padding - tail))
