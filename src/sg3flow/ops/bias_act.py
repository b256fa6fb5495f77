"""Bias, activation, gain and clamp in one op that keeps one tensor for backward."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow.ops.backend import has_kernels

_SLOPE = 0.2


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    act: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> torch.Tensor:
    """(1) Add the bias of each channel; (2) activate; (3) multiply by `gain`; (4) clamp.

    Differentiable in `x` and `b` to any order; the gradient of clamped values is 0.

    Args:
        x: [N, C, ...], any floating dtype.
        b: [C] of the same dtype, or None for no bias.
        act: 'linear' or 'lrelu' (slope 0.2).
        gain: positive; None for the default, 1 for linear and sqrt(2) for lrelu.
        clamp: largest magnitude of the result, or None for no limit.
    """
    gain = _checked(x, b, act, gain, clamp)
    slope = _SLOPE if act == "lrelu" else 1.0
    if (slope != 1 or clamp is not None) and has_kernels(x, "bias_act"):
        limit = -1.0 if clamp is None else float(clamp)
        bias = None if b is None else b.contiguous()
        out: torch.Tensor = torch.ops.sg3flow.bias_act(x.contiguous(), bias, slope, gain, limit)
        return out
    if b is not None:
        x = x + b.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    if slope == 1 and clamp is None:
        return x if gain == 1 else x * gain
    y: torch.Tensor = _BiasAct.apply(x, slope, gain, clamp)  # type: ignore[no-untyped-call]
    return y


def _checked(
    x: torch.Tensor, b: torch.Tensor | None, act: str, gain: float | None, clamp: float | None
) -> float:
    """The gain; raises ValueError for arguments that do not fit together."""
    if act not in ("linear", "lrelu"):
        raise ValueError(f"bias_act: act must be 'linear' or 'lrelu', not '{act}'")
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"bias_act: x must be floating [N, C, ...], not {x.dtype} {list(x.shape)}")
    if b is not None and b.shape != x.shape[1:2]:
        raise ValueError(f"bias_act: b must be [{x.shape[1]}] for this x, not {list(b.shape)}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"bias_act: clamp must be 0 or more, or None, not {clamp}")
    if gain is None:
        return math.sqrt(2) if act == "lrelu" else 1.0
    if gain <= 0:
        raise ValueError(f"bias_act: gain must be above 0, not {gain}")
    return float(gain)


class _BiasAct(torch.autograd.Function):
    """The nonlinearity. It keeps its result, which the next convolution keeps, too."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, slope: float, gain: float, clamp: float | None
    ) -> torch.Tensor:
        y = F.leaky_relu(x, slope).mul_(gain)
        if clamp is not None and may_exceed(y, clamp):
            y.clamp_(-clamp, clamp)
        else:
            clamp = None
        ctx.save_for_backward(y)
        ctx.params = (slope, gain, clamp)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (y,) = ctx.saved_tensors
        return _sloped(grad, y, *ctx.params), None, None, None


def _sloped(
    grad: torch.Tensor, y: torch.Tensor, slope: float, gain: float, clamp: float | None
) -> torch.Tensor:
    dx: torch.Tensor = _BiasActGrad.apply(  # type: ignore[no-untyped-call]
        grad, y, slope, gain, clamp
    )
    return dx


class _BiasActGrad(torch.autograd.Function):
    """grad times the slope at y: linear in grad, so it is its own backward; y has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: torch.Tensor,
        y: torch.Tensor,
        slope: float,
        gain: float,
        clamp: float | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(y)
        ctx.params = (slope, gain, clamp)
        dx: torch.Tensor = torch.ops.aten.leaky_relu_backward(grad, y, slope, False)
        dx = dx.mul_(gain)
        return dx if clamp is None else dx.masked_fill_(y.abs() >= clamp, 0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (y,) = ctx.saved_tensors
        return _sloped(grad, y, *ctx.params), None, None, None, None


def may_exceed(y: torch.Tensor, limit: float) -> bool:
    """Whether a value may reach the clamp; on a GPU always true: reading would synchronize."""
    if y.device.type != "cpu" or y.numel() == 0:
        return True
    low, high = torch.aminmax(y)
    return not max(-float(low), float(high)) < limit
