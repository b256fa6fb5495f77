"""The plain PyTorch engine under upfirdn2d and filtered_lrelu: resampling FIR filters.

`FirSpec` is one resampling step as plain numbers, with its adjoint; `run_fir` computes it without
recording a gradient. Nothing here ever holds the zero-inserted signal: an upsampling filter is run
as `up` ordinary filters (its polyphase components), whose outputs are interleaved.

Measured on one AVX-512 core in float32, 64 channels of 38x38 -> 84x84, 12 taps, up 2: polyphase
depthwise conv2d 0.5 ms, banded matrix products 0.9 ms, depthwise conv_transpose2d 0.8 to 2.2 ms
(up to 40 times slower for some paddings); 84x84 -> 36x36, down 2: depthwise conv2d 0.3 ms,
separable or not, banded matrix products 0.9 ms, conv2d over planes as a batch 7 ms.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True)
class FirSpec:
    """Upsample, pad, filter, downsample: the parameters of one upfirdn2d besides its taps.

    Pairs are (x, y); `padding` is (x0, x1, y0, y1) in samples of the upsampled signal, negative
    to crop; `flip` asks for correlation instead of convolution; `gain` scales the result.
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
        """The step that carries gradients back to an input of `size`: again an upfirdn2d."""
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
    """(height, width) of a filter: 2-D, 1-D for both axes alike, or None for the identity."""
    if f is None:
        return 1, 1
    return (f.shape[0], f.shape[0]) if f.ndim == 1 else (f.shape[0], f.shape[1])


def run_fir(x: torch.Tensor, f: torch.Tensor | None, spec: FirSpec) -> torch.Tensor:
    """Computes one resampling step on [N, C, H, W], outside autograd."""
    if f is None:
        if spec.is_identity:
            return x
        f = torch.ones(1, 1, device=x.device)
    height, width = spec.output_size((x.shape[2], x.shape[3]), filter_taps(f))
    if x.numel() == 0:
        return x.new_zeros(x.shape[0], x.shape[1], height, width)
    if f.ndim == 2:
        return _resample(x, _kernel(f, spec.flip, spec.gain, x), spec)
    x0, x1, y0, y1 = spec.padding
    taps = _kernel(f, spec.flip, math.sqrt(spec.gain), x)
    across = FirSpec((spec.up[0], 1), (spec.down[0], 1), (x0, x1, 0, 0))
    along = FirSpec((1, spec.up[1]), (1, spec.down[1]), (0, 0, y0, y1))
    return _resample(_resample(x, taps[None, :], across), taps[:, None], along)


def _kernel(f: torch.Tensor, flip: bool, gain: float, x: torch.Tensor) -> torch.Tensor:
    """Taps in the order of a correlation, scaled, in the signal's dtype."""
    f = f if flip else f.flip(list(range(f.ndim)))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (f.to(wide) * gain).to(x.dtype)


def _resample(x: torch.Tensor, kernel: torch.Tensor, spec: FirSpec) -> torch.Tensor:
    if spec.up == (1, 1):
        return _correlate(x, kernel, spec.padding, spec.down)
    height, width = FirSpec(spec.up, (1, 1), spec.padding).output_size(
        (x.shape[2], x.shape[3]), (kernel.shape[0], kernel.shape[1])
    )
    y = _polyphase(x, kernel, spec, height, width)
    return y[:, :, : height : spec.down[1], : width : spec.down[0]]


def _polyphase(
    x: torch.Tensor, kernel: torch.Tensor, spec: FirSpec, height: int, width: int
) -> torch.Tensor:
    """Upsampled and filtered, of at least [N, C, height, width] (up to up-1 samples more).

    Sample q*up + r meets only the taps s with s = p0 - r (mod up): an ordinary filter of x.
    """
    (up_x, up_y), (x0, _, y0, _) = spec.up, spec.padding
    rows, columns = math.ceil(height / up_y), math.ceil(width / up_x)
    kernel = F.pad(kernel, (0, -kernel.shape[1] % up_x, 0, -kernel.shape[0] % up_y))
    y = x.new_empty(x.shape[0], x.shape[1], rows, up_y, columns, up_x)
    for row in range(up_y):
        tap_y, top = _phase(row, y0, up_y)
        for column in range(up_x):
            tap_x, left = _phase(column, x0, up_x)
            part = kernel[tap_y::up_y, tap_x::up_x]
            right = columns + part.shape[1] - 1 - left - x.shape[3]
            bottom = rows + part.shape[0] - 1 - top - x.shape[2]
            y[:, :, :, row, :, column] = _correlate(x, part, (left, right, top, bottom), (1, 1))
    return y.view(x.shape[0], x.shape[1], rows * up_y, columns * up_x)


def _phase(phase: int, before: int, up: int) -> tuple[int, int]:
    """The first tap of a phase, and how many zeros go before the signal for it."""
    tap = (before - phase) % up
    return tap, (before - phase - tap) // up


def _correlate(
    x: torch.Tensor,
    kernel: torch.Tensor,
    padding: tuple[int, int, int, int],
    stride: tuple[int, int],
) -> torch.Tensor:
    """Depthwise correlation of [N, C, H, W] with one kernel; `padding` and `stride` begin with x."""
    x0, x1, y0, y1 = padding
    pad_x, pad_y = (x0 if x0 == x1 > 0 else 0), (y0 if y0 == y1 > 0 else 0)
    rest = (x0 - pad_x, x1 - pad_x, y0 - pad_y, y1 - pad_y)
    x = F.pad(x, rest) if any(rest) else x
    channels = x.shape[1]
    if kernel.numel() == 1:
        return x[:, :, :: stride[1], :: stride[0]] * kernel
    weight = kernel[None, None].expand(channels, 1, -1, -1)
    return F.conv2d(
        x, weight, stride=(stride[1], stride[0]), padding=(pad_y, pad_x), groups=channels
    )
