"""Bias and activation with what follows in a discriminator: a low-pass filter, or a sum.

On a GPU one op that keeps two bits of each sample; elsewhere the ops that it consists of.
"""

import math
from collections.abc import Sequence

import torch

from sg3flow.ops import act_filter_registration  # noqa: F401 - declares the op
from sg3flow.ops.backend import has_kernels
from sg3flow.ops.bias_act import bias_act
from sg3flow.ops.upfirdn2d import kernel_taps, upfirdn2d

_SLOPE = 0.2
_TAPS = 4  # of a side of the kernels' filter


def filtered_act(
    x: torch.Tensor,
    b: torch.Tensor | None,
    gain: float = math.sqrt(2),
    clamp: float | None = None,
    f: torch.Tensor | None = None,
    padding: Sequence[int] = (0, 0, 0, 0),
    base: torch.Tensor | None = None,
) -> torch.Tensor:
    """(1) `bias_act` with a leaky ReLU; (2) convolve the padded result with `f`; (3) add `base`.

    Differentiable in `x`, `b` and `base` to any order.

    Args:
        x: [N, C, H, W], any floating dtype.
        b: [C] of the same dtype, or None for no bias.
        gain, clamp: of the activation, as in `bias_act`.
        f: float32 [height, width] or [taps] (separable), or None.
        padding: (x0, x1, y0, y1) zeros around the image before `f`.
        base: like the result, or None.
    """
    if _fits(f, padding) and has_kernels(x, "act_filter"):
        return _compiled(x, b, gain, clamp, f, padding, base)
    y = bias_act(x, b, act="lrelu", gain=gain, clamp=clamp)
    if f is not None:
        y = upfirdn2d(y, f, padding=tuple(padding))
    return y if base is None else y + base


def _fits(f: torch.Tensor | None, padding: Sequence[int]) -> bool:
    """Whether the kernels have the filter."""
    if f is None:
        return True
    return f.shape == (_TAPS, _TAPS) and all(0 <= pad < _TAPS for pad in padding)


def _compiled(
    x: torch.Tensor,
    b: torch.Tensor | None,
    gain: float,
    clamp: float | None,
    f: torch.Tensor | None,
    padding: Sequence[int],
    base: torch.Tensor | None,
) -> torch.Tensor:
    given = [each for each in (x, b) if each is not None]
    keeps = torch.is_grad_enabled() and any(each.requires_grad for each in given)
    y: torch.Tensor
    y, _ = torch.ops.sg3flow.act_filter(
        x.contiguous(),
        None if b is None else b.contiguous(),
        None if f is None else kernel_taps(f),
        None if base is None else base.contiguous(),
        padding,
        _SLOPE,
        float(gain),
        -1.0 if clamp is None else float(clamp),
        keeps,
    )
    return y
