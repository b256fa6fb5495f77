"""The alias-free nonlinearity of StyleGAN3 (Karras et al. 2021, Sec. 3.2 and App. C)."""

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow.ops import sum_registration  # noqa: F401 - declares the ops
from sg3flow.ops.backend import has_kernels
from sg3flow.ops.bias_act import may_exceed
from sg3flow.ops.cuda_tiles import filter_family
from sg3flow.ops.fir import FirSpec, as_planes, filter_taps, plane_groups, resample
from sg3flow.ops.upfirdn2d import (
    Factor,
    check_filter,
    check_fits,
    check_images,
    kernel_taps,
    parse_factor,
    parse_padding,
)


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

    The upsampled tensor is not kept: backward needs two bits per sample of it or, without compiled
    kernels, `x` and `b`. Differentiable in `x` and `b` to any order.

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
    y, _ = _filtered_lrelu(
        x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter, squares=False
    )
    return y


def filtered_lrelu_squares(
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
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`filtered_lrelu` and the sum of the squares of its result, where kernels of a GPU give it.

    Args: those of `filtered_lrelu`.

    Returns:
        The result, and the sum [] in float32, which has no gradient; None: no kernel gives it.
    """
    return _filtered_lrelu(
        x, fu, fd, b, up, down, padding, gain, slope, clamp, flip_filter, squares=True
    )


def _filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    up: Factor,
    down: Factor,
    padding: Factor,
    gain: float,
    slope: float,
    clamp: float | None,
    flip_filter: bool,
    squares: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    check_images("filtered_lrelu", x)
    check_filter("filtered_lrelu", fu, "fu")
    check_filter("filtered_lrelu", fd, "fd")
    _check_values(x, b, gain, slope, clamp)
    (ux, uy), (dx, dy) = parse_factor("up", up), parse_factor("down", down)
    first = FirSpec((ux, uy), (1, 1), parse_padding(padding), flip_filter, float(ux * uy))
    check_fits("filtered_lrelu", x, fu, first)
    middle = first.output_size((x.shape[2], x.shape[3]), filter_taps(fu))
    second = FirSpec((1, 1), (dx, dy), flip=flip_filter, gain=float(gain))
    check_fits("filtered_lrelu", x.new_empty(1, 1, 1, 1).expand(1, 1, *middle), fd, second)
    if has_kernels(x, _part(x, fu, first, fd, second.down)):
        numbers = (float(slope), float(gain), clamp)
        if squares and x.device.type != "cpu":
            return _compiled_squares(x, fu, fd, b, first, second.down, *numbers)
        return _compiled(x, fu, fd, b, first, second.down, *numbers), None
    limit = None if clamp is None else clamp / gain
    op = _Op(fu, fd, first, second, float(slope), limit)
    y: torch.Tensor = _FilteredLRelu.apply(x, b, op)  # type: ignore[no-untyped-call]
    return y, None


def _part(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    first: FirSpec,
    fd: torch.Tensor | None,
    down: tuple[int, int],
) -> str:
    """What the op needs of the kernels of a GPU."""
    if x.device.type == "cpu":
        return ""
    if _is_bias_act(fu, first, fd, down):
        return "bias_act"
    shapes = [None if f is None else tuple(f.shape) for f in (fu, fd)]
    return f"filtered_lrelu-{filter_family(first.up, shapes[0], down, shapes[1])}"


def _compiled(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    first: FirSpec,
    down: tuple[int, int],
    slope: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    x, b = x.contiguous(), None if b is None else b.contiguous()
    if _is_bias_act(fu, first, fd, down):
        limit = -1.0 if clamp is None else float(clamp)
        only: torch.Tensor = torch.ops.sg3flow.bias_act(x, b, slope, gain, limit)
        return only
    arguments = _arguments(x, fu, fd, b, first, down, slope, gain, clamp)
    y: torch.Tensor
    y, _ = torch.ops.sg3flow.filtered_lrelu(*arguments)
    return y


def _compiled_squares(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    first: FirSpec,
    down: tuple[int, int],
    slope: float,
    gain: float,
    clamp: float | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if _is_bias_act(fu, first, fd, down):
        return _compiled(x, fu, fd, b, first, down, slope, gain, clamp), None
    x, b = x.contiguous(), None if b is None else b.contiguous()
    arguments = _arguments(x, fu, fd, b, first, down, slope, gain, clamp)
    y, _, squares = torch.ops.sg3flow.filtered_lrelu_squares(*arguments)
    return y, squares


def _arguments(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    first: FirSpec,
    down: tuple[int, int],
    slope: float,
    gain: float,
    clamp: float | None,
) -> tuple[Any, ...]:
    """Those of the ops of kernels; flags are kept if there will be a gradient."""
    keeps = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    taps = [None if f is None else kernel_taps(f) for f in (fu, fd)]
    limit = -1.0 if clamp is None else float(clamp)
    geometry = (first.up, down, first.padding, first.flip)
    return x, *taps, b, *geometry, gain, slope, limit, keeps


def _is_bias_act(
    fu: torch.Tensor | None, first: FirSpec, fd: torch.Tensor | None, down: tuple[int, int]
) -> bool:
    """Whether the op resamples nothing."""
    return fu is None and fd is None and first.up == down == (1, 1) and not any(first.padding)


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
class _Op:
    """The constants of the op: filters, resampling before and after the nonlinearity, slope, limit.

    The nonlinearity clips at `limit` (None: not at all) before the gain: a positive gain commutes
    with it and is part of the second filter.
    """

    fu: torch.Tensor | None
    fd: torch.Tensor | None
    first: FirSpec
    second: FirSpec
    slope: float
    limit: float | None

    def middle(self, x: torch.Tensor) -> tuple[int, int]:
        """(height, width) of the upsampled signal."""
        return self.first.output_size((x.shape[2], x.shape[3]), filter_taps(self.fu))

    def output(self, x: torch.Tensor) -> tuple[int, int]:
        """(height, width) of the result."""
        return self.second.output_size(self.middle(x), filter_taps(self.fd))


class _FilteredLRelu(torch.autograd.Function):
    """Keeps x and b only: backward upsamples x again to get the slope of each sample.

    In plain PyTorch this is faster than flags. One AVX-512 core, 512 planes of 178x178: upsampling
    again takes 15 ms and leaky_relu_backward 2; storing flags takes 7, selecting by them 56.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, b: torch.Tensor | None, op: _Op) -> torch.Tensor:
        ctx.save_for_backward(x, b)
        ctx.op = op
        return _activated(x, b, op)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        x, b = ctx.saved_tensors
        dx: torch.Tensor = _Pulled.apply(grad, x, b, ctx.op)  # type: ignore[no-untyped-call]
        db = None
        if b is not None and ctx.needs_input_grad[1]:
            db = dx.sum(dim=(0, 2, 3))
        return dx, db, None


class _Pulled(torch.autograd.Function):
    """The vector-Jacobian product at x: linear in the cotangent, constant in x (a.e.)."""

    @staticmethod
    def forward(
        ctx: Any, grad: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, op: _Op
    ) -> torch.Tensor:
        ctx.save_for_backward(x, b)
        ctx.op = op
        back = op.second.adjoint(op.middle(x), filter_taps(op.fd))
        down = op.first.adjoint((x.shape[2], x.shape[3]), filter_taps(op.fu))
        return _through(grad, x, b, op, (op.fd, back), (op.fu, down))

    @staticmethod
    def backward(ctx: Any, tangent: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        x, b = ctx.saved_tensors
        back: torch.Tensor = _Pushed.apply(tangent, x, b, ctx.op)  # type: ignore[no-untyped-call]
        return back, None, None, None


class _Pushed(torch.autograd.Function):
    """The Jacobian-vector product at x: the adjoint of `_Pulled`."""

    @staticmethod
    def forward(
        ctx: Any, tangent: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, op: _Op
    ) -> torch.Tensor:
        ctx.save_for_backward(x, b)
        ctx.op = op
        return _through(tangent, x, b, op, (op.fu, op.first), (op.fd, op.second))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        x, b = ctx.saved_tensors
        back: torch.Tensor = _Pulled.apply(grad, x, b, ctx.op)  # type: ignore[no-untyped-call]
        return back, None, None, None


def _activated(x: torch.Tensor, b: torch.Tensor | None, op: _Op) -> torch.Tensor:
    """The forward pass, a few planes at a time."""
    y = x.new_empty(1, x.shape[0] * x.shape[1], *op.output(x))
    for part in plane_groups(x, math.prod(op.middle(x))):
        v = _upsampled(x, b, op, part)
        v = F.leaky_relu(v, op.slope) if op.slope != 1 else v
        if op.limit is not None and may_exceed(v, op.limit):
            v = v.clamp(-op.limit, op.limit)
        y[:, part] = resample(v, op.fd, op.second)
    return y.view(*x.shape[:2], *op.output(x))


def _through(
    signal: torch.Tensor,
    x: torch.Tensor,
    b: torch.Tensor | None,
    op: _Op,
    before: tuple[torch.Tensor | None, FirSpec],
    after: tuple[torch.Tensor | None, FirSpec],
) -> torch.Tensor:
    """Resample `signal`, multiply by the slope of the nonlinearity at each sample, resample."""
    size = after[1].output_size(op.middle(x), filter_taps(after[0]))
    planes = as_planes(signal)
    y = signal.new_empty(1, planes.shape[1], *size)
    for part in plane_groups(x, math.prod(op.middle(x))):
        v = _upsampled(x, b, op, part)
        s = resample(planes[:, part], *before)
        s = torch.ops.aten.leaky_relu_backward(s, v, op.slope, False) if op.slope != 1 else s
        if op.limit is not None:
            low = op.limit / op.slope if op.slope else math.inf  # clips below -low
            if may_exceed(v, min(op.limit, low)):
                s = s.masked_fill((v >= op.limit) | (v <= -low), 0)
        y[:, part] = resample(s, *after)
    return y.view(*x.shape[:2], *size)


def _upsampled(x: torch.Tensor, b: torch.Tensor | None, op: _Op, part: slice) -> torch.Tensor:
    """Some planes of x + b, upsampled; the bias comes first, so it is filtered, too."""
    planes = as_planes(x)[:, part]
    if b is not None:
        planes = planes + b.repeat(x.shape[0])[part, None, None]
    return resample(planes, op.fu, op.first)
