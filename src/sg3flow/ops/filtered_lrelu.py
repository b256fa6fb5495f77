"""The alias-free nonlinearity of StyleGAN3 (Karras et al. 2021, Sec. 3.2 and App. C)."""

import dataclasses
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from sg3flow.ops.backend import backend_name
from sg3flow.ops.bias_act import may_exceed
from sg3flow.ops.fir import FirSpec, filter_taps, run_fir
from sg3flow.ops.upfirdn2d import (
    Factor,
    check_filter,
    check_fits,
    check_images,
    parse_factor,
    parse_padding,
)

# Upsampled samples worked on at a time on a CPU: the four passes over them stay in its cache.
_CHUNK_SAMPLES = 2**19


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> torch.Tensor:
    """(1) Add the bias; (2) upsample by `fu`; (3) leaky ReLU, gain, clamp; (4) downsample by `fd`.

    The upsampled tensor never outlives the call: backward needs one byte a sample (two where the
    clamp is reached). Differentiable in `x` and `b` to any order.

    Args:
        x: [N, C, H, W], any floating dtype.
        fu, fd: float32 [height, width], [taps] (separable) or None (identity).
        b: [C] of the same dtype as `x`, or None.
        up, down: an int, or (x, y).
        padding: an int, (x, y) or (x0, x1, y0, y1), in upsampled samples; negative crops.
        gain: positive factor after the leaky ReLU.
        slope: of the leaky ReLU below and at 0; 1 makes it linear.
        clamp: largest magnitude after the gain, or None.
        flip_filter: True correlates with both filters instead of convolving.

    Returns:
        [N, C, (H*up + y0 + y1 - (fu - 1) - (fd - 1) + down - 1) // down, the same for x].
    """
    check_images("filtered_lrelu", x)
    check_filter("filtered_lrelu", fu, "fu")
    check_filter("filtered_lrelu", fd, "fd")
    _check_values(x, b, gain, slope, clamp)
    (ux, uy), (dx, dy) = parse_factor("up", up), parse_factor("down", down)
    first = FirSpec((ux, uy), (1, 1), parse_padding(padding), flip_filter, float(ux * uy))
    check_fits("filtered_lrelu", x, fu, first)
    middle = first.output_size((x.shape[2], x.shape[3]), filter_taps(fu))
    # gain * clip(v, clamp / gain) is the clamp after the gain; the gain rides on the filter
    second = FirSpec((1, 1), (dx, dy), flip=flip_filter, gain=float(gain))
    check_fits("filtered_lrelu", x.new_empty(1, 1, 1, 1).expand(1, 1, *middle), fd, second)
    backend_name(x.device)
    if b is not None:
        x = x + b.reshape(1, -1, 1, 1)
    limit = None if clamp is None else clamp / gain
    return _FilteredLRelu.apply(x, fu, fd, _Steps(first, second), slope, limit)  # type: ignore[no-any-return]


def _check_values(
    x: torch.Tensor, b: torch.Tensor | None, gain: float, slope: float, clamp: float | None
) -> None:
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(
            f"filtered_lrelu: b must be [{x.shape[1]}] for this x, not {list(b.shape)}"
        )
    if gain <= 0 or slope < 0:
        raise ValueError(
            f"filtered_lrelu: gain must be above 0 and slope 0 or more, not {gain} and {slope}"
        )
    if clamp is not None and clamp < 0:
        raise ValueError(f"filtered_lrelu: clamp must be 0 or more, or None, not {clamp}")


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The resampling before and after the nonlinearity."""

    first: FirSpec
    second: FirSpec

    def middle(self, x: torch.Tensor, f: torch.Tensor | None) -> tuple[int, int]:
        return self.first.output_size((x.shape[2], x.shape[3]), filter_taps(f))

    def adjoint(
        self, x: torch.Tensor, f_first: torch.Tensor | None, f_second: torch.Tensor | None
    ) -> "_Steps":
        first = self.first.adjoint((x.shape[2], x.shape[3]), filter_taps(f_first))
        second = self.second.adjoint(self.middle(x, f_first), filter_taps(f_second))
        return _Steps(second, first)


class _Flags(NamedTuple):
    """What backward needs of each upsampled sample, [1, N*C, H, W], bool."""

    positive: torch.Tensor | None  # None where the slope is 1 everywhere
    clamped: torch.Tensor | None  # None where no sample reached the clamp


class _FilteredLRelu(torch.autograd.Function):
    """The op after the bias. Backward is linear in its argument and is `_Masked`."""

    @staticmethod
    def forward(ctx, x, fu, fd, steps, slope, limit):  # type: ignore[no-untyped-def, override]
        y, flags = _activate(x, fu, fd, steps, slope, limit, keep=ctx.needs_input_grad[0])
        ctx.save_for_backward(fu, fd, *flags)
        ctx.params = (steps.adjoint(x, fu, fd), slope)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
        fu, fd, positive, clamped = ctx.saved_tensors
        dx = _Masked.apply(grad, fd, fu, positive, clamped, *ctx.params)
        return dx, None, None, None, None, None


class _Masked(torch.autograd.Function):
    """Resample, multiply by the stored slopes, resample: linear, its backward is its like."""

    @staticmethod
    def forward(ctx, x, f_first, f_second, positive, clamped, steps, slope):  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(f_first, f_second, positive, clamped)
        ctx.params = (steps.adjoint(x, f_first, f_second), slope)
        return _masked(x, f_first, f_second, steps, slope, _Flags(positive, clamped))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def, override]
        f_first, f_second, positive, clamped = ctx.saved_tensors
        dx = _Masked.apply(grad, f_second, f_first, positive, clamped, *ctx.params)
        return dx, None, None, None, None, None, None


def _chunks(x: torch.Tensor, samples: int) -> list[slice]:
    """Ranges of the N*C planes: small ones on a CPU, one otherwise."""
    planes = x.shape[0] * x.shape[1]
    size = planes
    if x.device.type == "cpu":  # 16 planes fill the vector registers of a depthwise convolution
        size = max(_CHUNK_SAMPLES // max(samples, 1) // 16, 1) * 16
    return [slice(i, min(i + size, planes)) for i in range(0, planes, max(size, 1))]


def _planes(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(1, x.shape[0] * x.shape[1], x.shape[2], x.shape[3])


def _activate(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    steps: _Steps,
    slope: float,
    limit: float | None,
    keep: bool,
) -> tuple[torch.Tensor, _Flags]:
    height, width = steps.middle(x, fu)
    out = steps.second.output_size((height, width), filter_taps(fd))
    planes, count = _planes(x), x.shape[0] * x.shape[1]
    y = x.new_empty(1, count, *out)
    flags_shape, clamped = (1, count, height, width), None
    positive = x.new_empty(flags_shape, dtype=torch.bool) if keep and slope != 1 else None
    for part in _chunks(x, height * width):
        v = run_fir(planes[:, part], fu, steps.first)
        if positive is not None:
            torch.gt(v, 0, out=positive[:, part])
        v = F.leaky_relu(v, slope, inplace=fu is not None) if slope != 1 else v
        if limit is not None and may_exceed(v, limit):
            if keep:
                if clamped is None:
                    clamped = x.new_zeros(flags_shape, dtype=torch.bool)
                torch.ge(v.abs(), limit, out=clamped[:, part])
            v = v.clamp(-limit, limit)
        y[:, part] = run_fir(v, fd, steps.second)
    return y.view(x.shape[0], x.shape[1], *out), _Flags(positive, clamped)


def _masked(
    x: torch.Tensor,
    f_first: torch.Tensor | None,
    f_second: torch.Tensor | None,
    steps: _Steps,
    slope: float,
    flags: _Flags,
) -> torch.Tensor:
    height, width = steps.middle(x, f_first)
    out = steps.second.output_size((height, width), filter_taps(f_second))
    planes = _planes(x)
    y = x.new_empty(1, planes.shape[1], *out)
    for part in _chunks(x, height * width):
        v = run_fir(planes[:, part], f_first, steps.first)
        if flags.positive is not None:
            v = torch.where(flags.positive[:, part], v, v * slope)
        if flags.clamped is not None:
            v = v.masked_fill(flags.clamped[:, part], 0)
        y[:, part] = run_fir(v, f_second, steps.second)
    return y.view(x.shape[0], x.shape[1], *out)
