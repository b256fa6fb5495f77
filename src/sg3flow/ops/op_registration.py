"""The ops that compiled kernels implement, declared to torch: schemas, shapes, gradients.

Importing this module declares them all; `backend` loads the implementations. Here are the shapes
and gradients of upfirdn2d, bias_act and filtered_lrelu; `product_registration` has the others.
Pairs are (x, y) and padding is (x0, x1, y0, y1), as in `ops.fir.FirSpec`. Images are contiguous
[N, C, H, W], filters contiguous float32. `slope` 1 and `clamp` below 0 mean none.

The flags of filtered_lrelu are uint8 [N, C, Hm, ceil(Wm / 4)] for an upsampled signal of [Hm, Wm]:
two bits per sample, those of sample j of a row from bit 2 * (j % 4) of byte j // 4 on. The lower
bit is set if the slope applies (v <= 0), the upper one if the sample is clamped.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sg3flow.ops.fir import FirSpec, filter_taps, run_fir

Filter = torch.Tensor | None
_Ints = Sequence[int]

_SCHEMAS = (
    "upfirdn2d(Tensor x, Tensor f, int[2] up, int[2] down, int[4] padding, bool flip, float gain)"
    " -> Tensor",
    "upfirdn2d_add(Tensor x, Tensor f, Tensor base, int[2] up, int[2] down, int[4] padding,"
    " bool flip, float gain) -> Tensor",
    "bias_act(Tensor x, Tensor? b, float slope, float gain, float clamp) -> Tensor",
    "bias_act_grad(Tensor grad, Tensor y, float slope, float gain, float clamp) -> Tensor",
    "filtered_lrelu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, int[2] up, int[2] down,"
    " int[4] padding, bool flip, float gain, float slope, float clamp, bool write_flags)"
    " -> (Tensor y, Tensor flags)",
    "filtered_lrelu_flagged(Tensor g, Tensor flags, Tensor? fu, Tensor? fd, int[2] up,"
    " int[2] down, int[4] padding, int[2] offset, int flags_width, bool flip, float gain,"
    " float slope) -> Tensor",
    "conv3x3(Tensor x, Tensor w, Tensor? before, Tensor? after, int padding) -> Tensor",
    "conv3x3_weight(Tensor x, Tensor grad, Tensor? before, Tensor? after, int padding) -> Tensor",
    "matrix_product(Tensor a, Tensor b) -> Tensor",
    "plane_products(Tensor x, Tensor y) -> Tensor",
)

LIBRARY = torch.library.Library("sg3flow", "DEF")  # type: ignore[no-untyped-call]
for _schema in _SCHEMAS:
    LIBRARY.define(_schema)  # type: ignore[no-untyped-call]


def _spec(up: _Ints, down: _Ints, padding: _Ints, flip: bool, gain: float) -> FirSpec:
    return FirSpec(
        (up[0], up[1]),
        (down[0], down[1]),
        (padding[0], padding[1], padding[2], padding[3]),
        flip,
        gain,
    )


def _upfirdn2d_fake(
    x: torch.Tensor,
    f: torch.Tensor,
    up: _Ints,
    down: _Ints,
    padding: _Ints,
    flip: bool,
    gain: float,
) -> torch.Tensor:
    spec = _spec(up, down, padding, flip, gain)
    size = spec.output_size((x.shape[2], x.shape[3]), filter_taps(f))
    return x.new_empty(x.shape[0], x.shape[1], *size)


torch.library.register_fake("sg3flow::upfirdn2d", _upfirdn2d_fake, lib=LIBRARY)


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, f, up, down, padding, flip, gain = inputs
    ctx.save_for_backward(f)
    spec = _spec(up, down, padding, flip, gain)
    ctx.adjoint = spec.adjoint((x.shape[2], x.shape[3]), filter_taps(f))


def _upfirdn2d_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    a: FirSpec = ctx.adjoint
    dx = torch.ops.sg3flow.upfirdn2d(grad.contiguous(), f, a.up, a.down, a.padding, a.flip, a.gain)
    return dx, None, None, None, None, None, None


torch.library.register_autograd(
    "sg3flow::upfirdn2d", _upfirdn2d_backward, setup_context=_upfirdn2d_setup, lib=LIBRARY
)


def upfirdn2d_add(
    x: torch.Tensor,
    f: torch.Tensor,
    base: torch.Tensor,
    up: _Ints,
    down: _Ints,
    padding: _Ints,
    flip: bool,
    gain: float,
) -> torch.Tensor:
    """`upfirdn2d` plus `base`, rounded once; for CPU tensors, in pure PyTorch."""
    return run_fir(x, f, _spec(up, down, padding, flip, gain)) + base


LIBRARY.impl("upfirdn2d_add", upfirdn2d_add, "CPU")  # type: ignore[no-untyped-call]


def _upfirdn2d_add_fake(
    x: torch.Tensor, f: torch.Tensor, base: torch.Tensor, *_: Any
) -> torch.Tensor:
    return torch.empty_like(base, memory_format=torch.contiguous_format)


torch.library.register_fake("sg3flow::upfirdn2d_add", _upfirdn2d_add_fake, lib=LIBRARY)


def _bias_act_fake(
    x: torch.Tensor, b: torch.Tensor | None, slope: float, gain: float, clamp: float
) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


torch.library.register_fake("sg3flow::bias_act", _bias_act_fake, lib=LIBRARY)


def _bias_act_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, b, slope, gain, clamp = inputs
    ctx.save_for_backward(output)
    ctx.params, ctx.has_bias = (slope, gain, clamp), b is not None


def _bias_act_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (y,) = ctx.saved_tensors
    dx = torch.ops.sg3flow.bias_act_grad(grad.contiguous(), y, *ctx.params)
    others = [i for i in range(dx.ndim) if i != 1]
    db = dx.sum(dim=others) if ctx.has_bias and ctx.needs_input_grad[1] else None
    return dx, db, None, None, None


torch.library.register_autograd(
    "sg3flow::bias_act", _bias_act_backward, setup_context=_bias_act_setup, lib=LIBRARY
)


def _bias_act_grad_fake(
    grad: torch.Tensor, y: torch.Tensor, slope: float, gain: float, clamp: float
) -> torch.Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


torch.library.register_fake("sg3flow::bias_act_grad", _bias_act_grad_fake, lib=LIBRARY)


def _bias_act_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, y, slope, gain, clamp = inputs
    ctx.save_for_backward(y)
    ctx.params = (slope, gain, clamp)


def _bias_act_grad_backward(ctx: Any, tangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The op is linear in `grad`, so it is its own adjoint; it is constant in y (a.e.)."""
    (y,) = ctx.saved_tensors
    back = torch.ops.sg3flow.bias_act_grad(tangent.contiguous(), y, *ctx.params)
    return back, None, None, None, None


torch.library.register_autograd(
    "sg3flow::bias_act_grad",
    _bias_act_grad_backward,
    setup_context=_bias_act_grad_setup,
    lib=LIBRARY,
)


def filtered_lrelu_fake(
    x: torch.Tensor,
    fu: Filter,
    fd: Filter,
    b: torch.Tensor | None,
    up: _Ints,
    down: _Ints,
    padding: _Ints,
    flip: bool,
    gain: float,
    slope: float,
    clamp: float,
    write_flags: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    middle = _spec(up, (1, 1), padding, flip, 1).output_size(
        (x.shape[2], x.shape[3]), filter_taps(fu)
    )
    size = _spec((1, 1), down, (0, 0, 0, 0), flip, 1).output_size(middle, filter_taps(fd))
    y = x.new_empty(x.shape[0], x.shape[1], *size)
    flags = x.new_empty(0, dtype=torch.uint8)
    if write_flags:
        shape = (x.shape[0], x.shape[1], middle[0], (middle[1] + 3) // 4)
        flags = x.new_empty(shape, dtype=torch.uint8)
    return y, flags


torch.library.register_fake("sg3flow::filtered_lrelu", filtered_lrelu_fake, lib=LIBRARY)


def filtered_lrelu_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    """What backward needs; also for results after the flags, which have no gradient."""
    x, fu, fd, b, up, down, padding, flip, gain, slope, _, write_flags = inputs
    _, flags, *_ = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(fu, fd, flags)
    ctx.size, ctx.has_bias, ctx.wrote = (x.shape[2], x.shape[3]), b is not None, write_flags
    ctx.geometry = _Geometry(
        _spec(up, (1, 1), padding, flip, float(up[0] * up[1])),
        FirSpec((1, 1), (down[0], down[1]), flip=flip),
    )
    ctx.gains = (gain, slope)


def filtered_lrelu_backward(
    ctx: Any, grad: torch.Tensor | None, *_: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of x and b; on a GPU the latter by the kernel of the former."""
    if grad is None:
        return (None,) * 12
    if not ctx.wrote:
        raise RuntimeError("sg3flow::filtered_lrelu: backward needs write_flags=True")
    fu, fd, flags = ctx.saved_tensors
    geometry: _Geometry = ctx.geometry
    width = geometry.first.output_size(ctx.size, filter_taps(fu))[1]
    arguments = (grad, flags, fu, fd, geometry, ctx.size, (0, 0), width, *ctx.gains)
    needs_sum = ctx.has_bias and ctx.needs_input_grad[3]
    if needs_sum and grad.device.type != "cpu":
        dx, db = filtered_lrelu_adjoint(_ops().filtered_lrelu_flagged_sum, *arguments)
        return (dx, None, None, db, *(None,) * 8)
    dx = filtered_lrelu_adjoint(_ops().filtered_lrelu_flagged, *arguments)
    return (dx, None, None, dx.sum(dim=(0, 2, 3)) if needs_sum else None, *(None,) * 8)


def _ops() -> Any:
    return torch.ops.sg3flow


class _Geometry(NamedTuple):
    """The resampling before the nonlinearity and the one after it."""

    first: FirSpec
    second: FirSpec


def filtered_lrelu_adjoint(
    op: Any,
    grad: torch.Tensor,
    flags: torch.Tensor,
    fu: Filter,
    fd: Filter,
    geometry: _Geometry,
    size: tuple[int, int],
    offset: tuple[int, int],
    flags_width: int,
    gain: float,
    slope: float,
) -> Any:
    """The gradient of an input of `size`: the flagged op with both resamplings exchanged.

    That op pads only before its first filter. The padding of the second filter's adjoint is added
    there, and shifts the flags by as much: outside of them the upsampled signal counts as 0.
    """
    first, second = geometry
    middle = first.output_size(size, filter_taps(fu))
    back = second.adjoint(middle, filter_taps(fd))
    forth = first.adjoint(size, filter_taps(fu))
    (ux, uy), (dx, dy) = first.up, second.down
    return op(
        grad.contiguous(),
        flags,
        fd,
        fu,
        second.down,
        first.up,
        [a + b for a, b in zip(back.padding, forth.padding, strict=True)],
        (offset[0] - forth.padding[0], offset[1] - forth.padding[2]),
        flags_width,
        not first.flip,
        gain * (ux * uy) / (dx * dy),  # the op adds the gain of its own upsampling
        slope,
    )


torch.library.register_autograd(
    "sg3flow::filtered_lrelu",
    filtered_lrelu_backward,
    setup_context=filtered_lrelu_setup,
    lib=LIBRARY,
)


def _flagged_fake(
    g: torch.Tensor,
    flags: torch.Tensor,
    fu: Filter,
    fd: Filter,
    up: _Ints,
    down: _Ints,
    padding: _Ints,
    offset: _Ints,
    flags_width: int,
    flip: bool,
    gain: float,
    slope: float,
) -> torch.Tensor:
    y, _ = filtered_lrelu_fake(g, fu, fd, None, up, down, padding, flip, gain, slope, -1.0, False)
    return y


torch.library.register_fake("sg3flow::filtered_lrelu_flagged", _flagged_fake, lib=LIBRARY)


def flagged_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """What the second order needs; also with a sum as another result."""
    g, flags, fu, fd, up, down, padding, offset, flags_width, flip, gain, slope = inputs
    ctx.save_for_backward(fu, fd, flags)
    ctx.size = (g.shape[2], g.shape[3])
    ctx.geometry = _Geometry(
        _spec(up, (1, 1), padding, flip, float(up[0] * up[1])),
        FirSpec((1, 1), (down[0], down[1]), flip=flip),
    )
    ctx.flags = ((offset[0], offset[1]), flags_width)
    ctx.gains = (gain, slope)


def flagged_backward(ctx: Any, tangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The op is linear in `g`, and its adjoint is a flagged op, too."""
    fu, fd, flags = ctx.saved_tensors
    arguments = (tangent, flags, fu, fd, ctx.geometry, ctx.size, *ctx.flags, *ctx.gains)
    return (filtered_lrelu_adjoint(_ops().filtered_lrelu_flagged, *arguments), *(None,) * 11)


torch.library.register_autograd(
    "sg3flow::filtered_lrelu_flagged",
    flagged_backward,
    setup_context=flagged_setup,
    lib=LIBRARY,
)
