"""upfirdn2d on a GPU: checks, memory and launches."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch

from sg3flow.ops.cuda_checks import (
    PreparedCalls,
    check_images,
    check_like,
    checked,
    description,
    filter_of,
    rates,
    resampled,
    type_code,
)
from sg3flow.ops.cuda_device import index_of
from sg3flow.ops.cuda_launch import launch_over, load_program, long
from sg3flow.ops.cuda_programs import (
    SMALL_RATES,
    small_add_kernel,
    small_kernel,
    upfirdn2d_add_program,
    upfirdn2d_program,
    upfirdn_kernel,
)
from sg3flow.ops.cuda_structs import Filter, Upfirdn

_NAME = "upfirdn2d"
_SMALL_TAPS = 4  # of the unrolled kernels
_MOST_OF_A_PLANE = 1 << 31  # samples that they count
_MOST_TAPS_OF_ONE_PASS = 4
_Pair = tuple[int, int]


class _Call(NamedTuple):
    """A checked pass, without its addresses."""

    template: bytes
    shape: tuple[int, ...]  # of the result
    elements: int
    function: int


_calls: PreparedCalls[tuple[_Call, ...]] = PreparedCalls()


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> torch.Tensor:
    """The op of this name: one pass, or two for a separable filter of more than 4 taps."""
    numbers = (*up, *down, *padding, flip, gain)
    key = (description(x), description(f), numbers)
    passes = _calls.get(key) or _calls.put(key, _prepare(x, f, up, down, padding, flip, gain))
    for call in passes:
        x = _run(call, x, f)
    return x


def upfirdn2d_add(
    x: torch.Tensor,
    f: torch.Tensor,
    base: torch.Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> torch.Tensor:
    """The op of this name: one pass for 4x4 filters, else the sum after the other op."""
    name = "upfirdn2d_add"
    numbers = (*up, *down, *padding, flip, gain)
    key = (name, description(x), description(f), description(base), numbers)
    passes = _calls.get(key)
    if passes is None:
        passes = _calls.put(key, _prepare_add(name, x, f, base, up, down, padding, flip, gain))
    if not passes:
        return upfirdn2d(x, f, up, down, padding, flip, gain) + base
    (call,) = passes
    y = x.new_empty(call.shape)
    if call.elements:
        op = Upfirdn.from_buffer_copy(call.template)
        op.x, op.y, op.filter.taps = x.data_ptr(), y.data_ptr(), f.data_ptr()
        parameters = (op, ctypes.c_void_p(base.data_ptr()), long(call.elements))
        launch_over(name, call.function, call.elements, parameters, index_of(x))
    return y


def _prepare_add(
    name: str,
    x: torch.Tensor,
    f: torch.Tensor,
    base: torch.Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> tuple[_Call, ...]:
    """The pass with a sum, or nothing where no kernel has one."""
    passes = _prepare(x, f, up, down, padding, flip, gain)
    check_like(name, "the summand", base, x)
    if base.shape != passes[-1].shape or base.dtype != x.dtype:
        raise RuntimeError(
            f"{name}: the summand must be like the result, {x.dtype} {list(passes[-1].shape)}, not "
            f"{base.dtype} {list(base.shape)}"
        )
    op = Upfirdn.from_buffer_copy(passes[0].template)
    if len(passes) > 1 or _kernel(op, x.dtype) == upfirdn_kernel(x.dtype):
        return ()
    functions = load_program(upfirdn2d_add_program(x.dtype), index_of(x))
    return (passes[0]._replace(function=functions[small_add_kernel(x.dtype, op.up_x, op.down_x)]),)


def _run(call: _Call, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(call.shape)
    if call.elements:
        op = Upfirdn.from_buffer_copy(call.template)
        op.x, op.y, op.filter.taps = x.data_ptr(), y.data_ptr(), f.data_ptr()
        launch_over(_NAME, call.function, call.elements, (op, long(call.elements)), index_of(x))
    return y


def _prepare(
    x: torch.Tensor,
    f: torch.Tensor,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> tuple[_Call, ...]:
    check_images(_NAME, x)
    filter_ = filter_of(_NAME, f, x)
    up, down = rates(_NAME, up), rates(_NAME, down)
    if not filter_.separable or filter_.width <= _MOST_TAPS_OF_ONE_PASS:
        return (_pass(x, tuple(x.shape), filter_, up, down, padding, flip, gain),)
    # Two passes, one per axis, are fewer multiplications than the product of the taps.
    (ux, uy), (dx, dy) = up, down
    across = Filter(filter_.taps, filter_.width, 1, 0)
    along = Filter(filter_.taps, 1, filter_.width, 0)
    first = _pass(x, tuple(x.shape), across, (ux, 1), (dx, 1), (*padding[:2], 0, 0), flip, 1.0)
    second = _pass(x, first.shape, along, (1, uy), (1, dy), (0, 0, *padding[2:]), flip, gain)
    return first, second


def _pass(
    x: torch.Tensor,
    shape: tuple[int, ...],
    filter_: Filter,
    up: _Pair,
    down: _Pair,
    padding: Sequence[int],
    flip: bool,
    gain: float,
) -> _Call:
    """One pass over a tensor like `x` of `shape`."""
    op = Upfirdn(type=type_code(_NAME, x), filter=filter_, flip=flip, gain=gain)
    samples, channels, height, width = shape
    op.planes = samples * channels
    op.in_w, op.in_h = checked(_NAME, "the width", width), checked(_NAME, "the height", height)
    (op.up_x, op.up_y), (op.down_x, op.down_y) = up, down
    op.pad_x, op.pad_y = (checked(_NAME, "padding", padding[i]) for i in (0, 2))
    op.out_w = resampled(_NAME, width * up[0] + sum(padding[:2]), filter_.width, down[0])
    op.out_h = resampled(_NAME, height * up[1] + sum(padding[2:]), filter_.height, down[1])
    result = (samples, channels, op.out_h, op.out_w)
    count = op.planes * op.out_h * op.out_w
    functions = load_program(upfirdn2d_program(x.dtype), index_of(x))
    return _Call(bytes(op), result, count, functions[_kernel(op, x.dtype)])


def _kernel(op: Upfirdn, dtype: torch.dtype) -> str:
    """The unrolled kernels are for 4x4 filters of the same rates on both axes."""
    is_small = op.filter.width == op.filter.height == _SMALL_TAPS
    is_square = op.up_x == op.up_y and op.down_x == op.down_y
    fits = is_small and is_square and dtype != torch.float64
    if fits and (op.up_x, op.down_x) in SMALL_RATES and op.in_w * op.in_h < _MOST_OF_A_PLANE:
        return small_kernel(dtype, op.up_x, op.down_x)
    return upfirdn_kernel(dtype)
