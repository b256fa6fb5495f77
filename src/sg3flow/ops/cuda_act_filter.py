"""act_filter and its gradients on a GPU: checks, memory and launches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from sg3flow.ops.cuda_checks import (
    PreparedCalls,
    check_bias,
    check_images,
    check_like,
    checked,
    description,
    filter_of,
    pointer,
    resampled,
    type_code,
)
from sg3flow.ops.cuda_device import index_of
from sg3flow.ops.cuda_launch import launch, load_program
from sg3flow.ops.cuda_programs import act_filter_kernel, act_filter_program
from sg3flow.ops.cuda_structs import ActFilter
from sg3flow.ops.cuda_tiles import MOST_BLOCKS

TILE = 32  # samples of a side, as in `cuda/act_filter.h`
TAPS = 4  # of a side of the filter
_THREADS = 256
_Pair = tuple[int, int]


class _Call(NamedTuple):
    """A checked call, without its addresses."""

    template: bytes
    function: int
    blocks: int
    tiles: int  # of a plane


_calls: PreparedCalls[_Call] = PreparedCalls()


def act_filter(
    x: torch.Tensor,
    b: torch.Tensor | None,
    f: torch.Tensor | None,
    base: torch.Tensor | None,
    padding: Sequence[int],
    slope: float,
    gain: float,
    clamp: float,
    write_flags: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op of this name."""
    name = "act_filter"
    numbers = (*padding, slope, gain, clamp)
    key = (name, description(x), description(b), description(f), description(base), numbers)
    call = _calls.get(key)
    if call is None:
        check_images(name, x)
        check_bias(name, b, x)
        op = _geometry(name, x, f, (x.shape[2], x.shape[3]), padding)
        op.slope, op.gain, op.clamp = slope, gain, clamp
        if base is not None:
            _check_images_like(name, "the summand", base, x, (op.out_h, op.out_w))
        call = _calls.put(key, _prepared(op, x, "", f is not None))
    height, width = x.shape[2:]
    y = x.new_empty((*x.shape[:2], *_size_of(call)))
    shape = (*x.shape[:2], height, (width + 3) // 4) if write_flags else (0,)
    flags = x.new_empty(shape, dtype=torch.uint8)
    _run(name, call, x, y, f, b=b, base=base, flags=flags if write_flags else None)
    return y, flags


def act_filter_grad(
    grad: torch.Tensor,
    flags: torch.Tensor,
    f: torch.Tensor | None,
    size: Sequence[int],
    padding: Sequence[int],
    slope: float,
    gain: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op of this name."""
    name = "act_filter_grad"
    key = (
        name,
        description(grad),
        description(flags),
        description(f),
        *size,
        *padding,
        slope,
        gain,
    )
    call = _calls.get(key)
    if call is None:
        check_images(name, grad)
        op = _geometry(name, grad, f, (size[0], size[1]), padding)
        if (op.out_h, op.out_w) != grad.shape[2:]:
            raise RuntimeError(
                f"{name}: the gradient of {op.in_h}x{op.in_w} samples must be "
                f"{op.out_h}x{op.out_w}, not {list(grad.shape)}"
            )
        _check_flags(name, flags, grad, op)
        op.slope, op.gain = slope, gain
        call = _calls.put(key, _prepared(op, grad, "grad", f is not None))
    planes = grad.shape[:2]
    dx = grad.new_empty((*planes, *size))
    sums = grad.new_empty((*planes, call.tiles), dtype=torch.float32)
    _run(name, call, grad, dx, f, flags=flags, sums=sums)
    return dx, sums.sum(dim=(0, 2)).to(grad.dtype)


def act_filter_flagged(
    x: torch.Tensor,
    flags: torch.Tensor,
    f: torch.Tensor,
    padding: Sequence[int],
    slope: float,
    gain: float,
) -> torch.Tensor:
    """The op of this name."""
    name = "act_filter_flagged"
    key = (name, description(x), description(flags), description(f), *padding, slope, gain)
    call = _calls.get(key)
    if call is None:
        check_images(name, x)
        op = _geometry(name, x, f, (x.shape[2], x.shape[3]), padding)
        _check_flags(name, flags, x, op)
        op.slope, op.gain = slope, gain
        call = _calls.put(key, _prepared(op, x, "flagged", True))
    y = x.new_empty((*x.shape[:2], *_size_of(call)))
    _run(name, call, x, y, f, flags=flags)
    return y


def _geometry(
    name: str, x: torch.Tensor, f: torch.Tensor | None, size: _Pair, padding: Sequence[int]
) -> ActFilter:
    """Sizes and filter, checked: `size` (height, width) of the samples, `x` of the same planes."""
    op = ActFilter(type=type_code(name, x), planes=x.shape[0] * x.shape[1], clamp=-1)
    if x.dtype == torch.float64:
        raise RuntimeError(f"{name}: float64 has no kernel")
    op.filter, op.channels = filter_of(name, f, x), checked(name, "the channels", x.shape[1])
    if f is not None and f.shape != (TAPS, TAPS):
        raise RuntimeError(f"{name}: the filter must be {TAPS}x{TAPS}, not {list(f.shape)}")
    if not all(0 <= pad < (TAPS if f is not None else 1) for pad in padding):
        raise RuntimeError(f"{name}: padding is 0 to 3, without a filter 0, not {list(padding)}")
    op.in_h, op.in_w = (checked(name, "a size", value) for value in size)
    op.pad_x, op.pad_y = padding[0], padding[2]
    op.out_w = resampled(name, op.in_w + sum(padding[:2]), op.filter.width, 1)
    op.out_h = resampled(name, op.in_h + sum(padding[2:]), op.filter.height, 1)
    op.tiles_x, op.tiles_y = tiles_of((op.in_w, op.out_w)), tiles_of((op.in_h, op.out_h))
    return op


def tiles_of(sizes: _Pair) -> int:
    """Tiles on an axis that cover the samples and the results."""
    return -(-max(sizes) // TILE)


def _prepared(op: ActFilter, x: torch.Tensor, part: str, filtered: bool) -> _Call:
    tiles = op.tiles_x * op.tiles_y
    blocks = op.planes * tiles
    if blocks > MOST_BLOCKS:
        raise RuntimeError(
            f"act_filter: {op.planes} planes of {op.in_h}x{op.in_w} samples are more than a launch "
            "covers"
        )
    functions = load_program(act_filter_program(x.dtype), index_of(x))
    return _Call(bytes(op), functions[act_filter_kernel(x.dtype, part, filtered)], blocks, tiles)


def _size_of(call: _Call) -> _Pair:
    """(height, width) of the results."""
    op = ActFilter.from_buffer_copy(call.template)
    return op.out_h, op.out_w


def _check_images_like(name: str, what: str, t: torch.Tensor, x: torch.Tensor, size: _Pair) -> None:
    check_like(name, what, t, x)
    if t.dtype != x.dtype or t.shape != (*x.shape[:2], *size):
        raise RuntimeError(
            f"{name}: {what} must be {x.dtype} {[*x.shape[:2], *size]}, not {t.dtype} "
            f"{list(t.shape)}"
        )


def _check_flags(name: str, flags: torch.Tensor, x: torch.Tensor, op: ActFilter) -> None:
    check_like(name, "the flags", flags, x)
    wanted = (*x.shape[:2], op.in_h, (op.in_w + 3) // 4)
    if flags.dtype != torch.uint8 or flags.shape != wanted:
        raise RuntimeError(
            f"{name}: the flags must be uint8 {list(wanted)}, not {flags.dtype} {list(flags.shape)}"
        )


def _run(
    name: str,
    call: _Call,
    x: torch.Tensor,
    y: torch.Tensor,
    f: torch.Tensor | None,
    *,
    b: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
    flags: torch.Tensor | None = None,
    sums: torch.Tensor | None = None,
) -> None:
    if not call.blocks:
        return
    op = ActFilter.from_buffer_copy(call.template)
    op.x, op.y, op.b, op.base = x.data_ptr(), y.data_ptr(), pointer(b), pointer(base)
    op.flags, op.sums, op.filter.taps = pointer(flags), pointer(sums), pointer(f)
    launch(name, call.function, call.blocks, _THREADS, (op,), index_of(x))
