"""Bias, activation, and a filter or a sum as one op of compiled kernels, declared to torch.

``y = filter(clamp(gain * lrelu(x + b))) + base``, where `f` [4, 4] or None convolves, `padding`
(x0, x1, y0, y1) is 0 to 3 each, and without `f` 0, and `base` is like y, or None. For the gradient
two bits of each sample of x are kept: `flags`, uint8 [N, C, H, ceil(W / 4)], those of sample j of a
row from bit 2 * (j % 4) of byte j // 4 on. The lower bit is set if the slope applies, the upper one
if the sample is clamped.

The gradients are linear in what they are given, so every order has one. Values are rounded to the
dtype where separate ops would round them. Implemented here in pure PyTorch for CPU tensors, for
tests.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from sg3flow.ops.fir import FirSpec, run_fir
from sg3flow.ops.op_registration import LIBRARY, Filter
from sg3flow.ops.sum_registration import with_sums

_SCHEMAS = (
    "act_filter(Tensor x, Tensor? b, Tensor? f, Tensor? base, int[4] padding, float slope,"
    " float gain, float clamp, bool write_flags) -> (Tensor y, Tensor flags)",
    "act_filter_grad(Tensor grad, Tensor flags, Tensor? f, int[2] size, int[4] padding,"
    " float slope, float gain) -> (Tensor dx, Tensor db)",
    "act_filter_flagged(Tensor x, Tensor flags, Tensor f, int[4] padding, float slope,"
    " float gain) -> Tensor",
)
for _schema in _SCHEMAS:
    LIBRARY.define(_schema)  # type: ignore[no-untyped-call]

_Ints = Sequence[int]
_SLOPED, _CLIPPED = 1, 2


def act_filter(
    x: torch.Tensor,
    b: torch.Tensor | None,
    f: Filter,
    base: torch.Tensor | None,
    padding: _Ints,
    slope: float,
    gain: float,
    clamp: float,
    write_flags: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result and the flags (empty unless they are written)."""
    y = F.leaky_relu(x if b is None else x + b[:, None, None], slope) * gain
    y = y if clamp < 0 else y.clamp(-clamp, clamp)
    codes = (~(y > 0)).to(torch.uint8) * _SLOPED
    if clamp >= 0:
        codes |= (y.abs() >= clamp).to(torch.uint8) * _CLIPPED
    y = run_fir(y, f, _spec(padding))
    y = y.clone() if base is None else y + base
    return y, _packed(codes) if write_flags else codes.new_empty(0)


def act_filter_grad(
    grad: torch.Tensor,
    flags: torch.Tensor,
    f: Filter,
    size: _Ints,
    padding: _Ints,
    slope: float,
    gain: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of x of `size` (height, width), and its sum over each channel."""
    taps = (1, 1) if f is None else (f.shape[0], f.shape[1])
    adjoint = _spec(padding).adjoint((size[0], size[1]), taps)
    dx = run_fir(grad, f, adjoint) * _slopes(flags, size[1], slope, gain, grad.dtype)
    return dx, dx.sum(dim=(0, 2, 3))


def act_filter_flagged(
    x: torch.Tensor, flags: torch.Tensor, f: torch.Tensor, padding: _Ints, slope: float, gain: float
) -> torch.Tensor:
    """What a change `x` of the samples makes of the result."""
    return run_fir(x * _slopes(flags, x.shape[3], slope, gain, x.dtype), f, _spec(padding))


def _spec(padding: _Ints) -> FirSpec:
    x0, x1, y0, y1 = padding
    return FirSpec(padding=(x0, x1, y0, y1))


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """Four codes of a row in each byte."""
    padded = F.pad(codes, [0, -codes.shape[3] % 4])
    fours = padded.reshape(*codes.shape[:3], padded.shape[3] // 4, 4)
    factors = torch.tensor([1, 4, 16, 64], dtype=torch.uint8, device=codes.device)
    return (fours * factors).sum(dim=4, dtype=torch.uint8)


def _slopes(
    flags: torch.Tensor, width: int, slope: float, gain: float, dtype: torch.dtype
) -> torch.Tensor:
    """What each sample is multiplied by: [N, C, H, width]."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=flags.device)
    codes = (flags[..., None] >> shifts & 3).flatten(3)[..., :width]
    factors = torch.tensor([gain, slope * gain, 0.0, 0.0], dtype=dtype, device=flags.device)
    return factors[codes.to(torch.int64)]


for _implementation in (act_filter, act_filter_grad, act_filter_flagged):
    LIBRARY.impl(_implementation.__name__, _implementation, "CPU")  # type: ignore[no-untyped-call]


def _shape(x: torch.Tensor, f: Filter, padding: _Ints) -> tuple[int, ...]:
    lost = 0 if f is None else f.shape[0] - 1
    height, width = x.shape[2] + sum(padding[2:]) - lost, x.shape[3] + sum(padding[:2]) - lost
    return x.shape[0], x.shape[1], height, width


def _act_filter_fake(
    x: torch.Tensor,
    b: torch.Tensor | None,
    f: Filter,
    base: torch.Tensor | None,
    padding: _Ints,
    slope: float,
    gain: float,
    clamp: float,
    write_flags: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*x.shape[:3], (x.shape[3] + 3) // 4) if write_flags else (0,)
    return x.new_empty(_shape(x, f, padding)), x.new_empty(shape, dtype=torch.uint8)


torch.library.register_fake("sg3flow::act_filter", _act_filter_fake, lib=LIBRARY)


def _act_filter_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, b, f, base, padding, slope, gain, _, write_flags = inputs
    _, flags = output
    ctx.mark_non_differentiable(flags)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(f, flags)
    ctx.size, ctx.wrote = (x.shape[2], x.shape[3]), write_flags
    ctx.params = (tuple(padding), slope, gain)
    ctx.has_bias, ctx.has_base = b is not None, base is not None


def _act_filter_backward(
    ctx: Any, grad: torch.Tensor | None, _: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    if not ctx.wrote and not any(ctx.needs_input_grad[:2]):
        return *(None,) * 3, grad if ctx.has_base else None, *(None,) * 5
    if not ctx.wrote:
        raise RuntimeError("sg3flow::act_filter: backward needs write_flags=True")
    f, flags = ctx.saved_tensors
    dx, db = torch.ops.sg3flow.act_filter_grad(grad.contiguous(), flags, f, ctx.size, *ctx.params)
    return dx, db if ctx.has_bias else None, None, grad if ctx.has_base else None, *(None,) * 5


torch.library.register_autograd(
    "sg3flow::act_filter", _act_filter_backward, setup_context=_act_filter_setup, lib=LIBRARY
)


def _act_filter_grad_fake(
    grad: torch.Tensor, flags: torch.Tensor, f: Filter, size: _Ints, *_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return grad.new_empty(*grad.shape[:2], *size), grad.new_empty(grad.shape[1])


torch.library.register_fake("sg3flow::act_filter_grad", _act_filter_grad_fake, lib=LIBRARY)


def _act_filter_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, flags, f, size, padding, slope, gain = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(flags, f)
    ctx.size, ctx.shape = tuple(size), output[0].shape
    ctx.params = (tuple(padding), slope, gain)


def _act_filter_grad_backward(
    ctx: Any, of_dx: torch.Tensor | None, of_db: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    """The op is linear in `grad`: its adjoint filters what the flags let through."""
    flags, f = ctx.saved_tensors
    tangent = with_sums(of_dx, of_db, ctx.shape)
    if tangent is None:
        return (None,) * 7
    tangent = tangent.contiguous()
    if f is None:  # then the op is its own adjoint
        back, _ = torch.ops.sg3flow.act_filter_grad(tangent, flags, f, ctx.size, *ctx.params)
    else:
        back = torch.ops.sg3flow.act_filter_flagged(tangent, flags, f, *ctx.params)
    return back, *(None,) * 6


torch.library.register_autograd(
    "sg3flow::act_filter_grad",
    _act_filter_grad_backward,
    setup_context=_act_filter_grad_setup,
    lib=LIBRARY,
)


def _act_filter_flagged_fake(
    x: torch.Tensor, flags: torch.Tensor, f: torch.Tensor, padding: _Ints, *_: Any
) -> torch.Tensor:
    return x.new_empty(_shape(x, f, padding))


torch.library.register_fake("sg3flow::act_filter_flagged", _act_filter_flagged_fake, lib=LIBRARY)


def _act_filter_flagged_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, flags, f, padding, slope, gain = inputs
    ctx.save_for_backward(flags, f)
    ctx.size, ctx.params = (x.shape[2], x.shape[3]), (tuple(padding), slope, gain)


def _act_filter_flagged_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    flags, f = ctx.saved_tensors
    dx, _ = torch.ops.sg3flow.act_filter_grad(grad.contiguous(), flags, f, ctx.size, *ctx.params)
    return dx, *(None,) * 5


torch.library.register_autograd(
    "sg3flow::act_filter_flagged",
    _act_filter_flagged_backward,
    setup_context=_act_filter_flagged_setup,
    lib=LIBRARY,
)
