"""filtered_lrelu and its flagged form on a GPU: checks, memory, the choice of kernels, launches."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from sg3flow.ops import cuda_device
from sg3flow.ops.cuda_checks import (
    PreparedCalls,
    check_bias,
    check_images,
    check_like,
    checked,
    description,
    filter_of,
    pointer,
    rates,
    resampled,
    type_code,
)
from sg3flow.ops.cuda_device import index_of
from sg3flow.ops.cuda_filtered_generic import run_generic
from sg3flow.ops.cuda_launch import launch, load_program
from sg3flow.ops.cuda_programs import (
    HALVES,
    band_kernel,
    band_program,
    sum_type,
    tile_kernel,
    tile_program,
)
from sg3flow.ops.cuda_structs import BandPlan, FilteredLrelu, TileGrid
from sg3flow.ops.cuda_tiles import (
    Kind,
    band_plan,
    find_kind,
    plain_shape,
    planes_of_block,
    suits_bands,
    tile_grids,
)
from sg3flow.settings import TENSOR_CORES

_MOST_PLANES = 1 << 31  # that the kernels count
_OLDEST_TENSOR_CORES = (8, 0)  # compute capability


class _Launch(NamedTuple):
    """One launch of a fused kernel."""

    function: int
    blocks: int
    threads: int
    grid: TileGrid


class _Call(NamedTuple):
    """A checked call, without its addresses.

    Attributes:
        launches: of a fused kernel; empty for the generic ones.
        is_empty: no output, so no launch.
        sums: of the tiles of a plane that a fused kernel can give.
    """

    template: bytes
    shape: tuple[int, ...]
    flags_shape: tuple[int, ...]
    launches: tuple[_Launch, ...]
    is_empty: bool
    sums: int


_calls: PreparedCalls[_Call] = PreparedCalls()


@functools.cache
def use_tensor_cores() -> bool:
    """For comparisons: ``SG3FLOW_TENSOR_CORES=0`` keeps to the ordinary arithmetic units."""
    return TENSOR_CORES.choice() != "0"


def filtered_lrelu(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
    slope: float,
    clamp: float,
    write_flags: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op of this name."""
    name = "filtered_lrelu"
    call = _forward_call(
        *(name, x, fu, fd, b, up, down, padding, flip, gain, slope, clamp, write_flags)
    )
    flags = x.new_empty(call.flags_shape if write_flags else (0,), dtype=torch.uint8)
    return _run(name, call, x, fu, fd, b, flags if write_flags else None), flags


def filtered_lrelu_squares(
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
    slope: float,
    clamp: float,
    write_flags: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The op of this name: the sum of squares by the kernel that writes the result, or after it."""
    name = "filtered_lrelu_squares"
    call = _forward_call(
        *(name, x, fu, fd, b, up, down, padding, flip, gain, slope, clamp, write_flags)
    )
    flags = x.new_empty(call.flags_shape if write_flags else (0,), dtype=torch.uint8)
    sums = _sums_of(call, x)
    y = _run(name, call, x, fu, fd, b, flags if write_flags else None, sums)
    if sums is not None:
        return y, flags, sums.sum()
    norm: torch.Tensor = torch.linalg.vector_norm(y, dtype=sum_type(y.dtype))
    return y, flags, norm.square()


def _forward_call(
    name: str,
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
    gain: float,
    slope: float,
    clamp: float,
    write_flags: bool,
) -> _Call:
    numbers = (*up, *down, *padding, flip, gain, slope, clamp, write_flags)
    key = (name, description(x), description(fu), description(fd), description(b), numbers)
    call = _calls.get(key)
    if call is None:
        op = _geometry(name, x, fu, fd, up, down, padding, flip)
        check_bias(name, b, x)
        op.gain, op.slope, op.limit = gain, slope, -1 if clamp < 0 else clamp / gain
        op.flags_w, op.flags_h, op.flags_stride = op.mid_w, op.mid_h, (op.mid_w + 3) // 4
        call = _calls.put(key, _prepared(op, x, writes_flags=write_flags))
    return call


def filtered_lrelu_flagged(
    g: torch.Tensor,
    flags: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    offset: Sequence[int],
    flags_width: int,
    flip: bool,
    gain: float,
    slope: float,
) -> torch.Tensor:
    """The op of this name."""
    name = "filtered_lrelu_flagged"
    call = _flagged_call(
        *(name, g, flags, fu, fd, up, down, padding, offset, flags_width, flip, gain, slope)
    )
    return _run(name, call, g, fu, fd, None, flags)


def filtered_lrelu_flagged_sum(
    g: torch.Tensor,
    flags: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    offset: Sequence[int],
    flags_width: int,
    flip: bool,
    gain: float,
    slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op of this name: the sums by the kernel that writes the result, or after it."""
    name = "filtered_lrelu_flagged_sum"
    call = _flagged_call(
        *(name, g, flags, fu, fd, up, down, padding, offset, flags_width, flip, gain, slope)
    )
    sums = _sums_of(call, g)
    y = _run(name, call, g, fu, fd, None, flags, sums)
    if sums is None:
        return y, y.sum(dim=(0, 2, 3))
    return y, sums.view(*g.shape[:2], call.sums).sum(dim=(0, 2)).to(y.dtype)


def _sums_of(call: _Call, x: torch.Tensor) -> torch.Tensor | None:
    """Memory for the sums of the tiles; None where only generic kernels run."""
    if not call.launches:
        return None
    return x.new_empty((x.shape[0] * x.shape[1], call.sums), dtype=torch.float32)


def _flagged_call(
    name: str,
    g: torch.Tensor,
    flags: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    offset: Sequence[int],
    flags_width: int,
    flip: bool,
    gain: float,
    slope: float,
) -> _Call:
    numbers = (*up, *down, *padding, *offset, flags_width, flip, gain, slope)
    key = (name, description(g), description(flags), description(fu), description(fd), numbers)
    call = _calls.get(key)
    if call is None:
        op = _geometry(name, g, fu, fd, up, down, padding, flip)
        _check_flags(name, flags, flags_width, g)
        op.gain, op.slope, op.limit, op.read_flags = gain, slope, -1, 1
        op.flags_w = checked(name, "flags_width", flags_width)
        op.flags_h = checked(name, "the flags' height", flags.shape[2])
        op.flags_stride = checked(name, "the flags' width", flags.shape[3])
        op.offset_x, op.offset_y = (checked(name, "offset", value) for value in offset)
        call = _calls.put(key, _prepared(op, g, writes_flags=False))
    return call


def _check_flags(name: str, flags: torch.Tensor, width: int, g: torch.Tensor) -> None:
    check_like(name, "the flags", flags, g)
    if flags.dtype != torch.uint8 or flags.ndim != 4 or flags.shape[:2] != g.shape[:2]:
        raise RuntimeError(
            f"{name}: flags must be uint8 [N, C, height, bytes] for the images {list(g.shape)}, "
            f"not {flags.dtype} {list(flags.shape)}"
        )
    if width < 0 or (width + 3) // 4 != flags.shape[3]:
        raise RuntimeError(f"{name}: {flags.shape[3]} bytes a row do not hold {width} samples")


def _geometry(
    name: str,
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    up: Sequence[int],
    down: Sequence[int],
    padding: Sequence[int],
    flip: bool,
) -> FilteredLrelu:
    """What both forms share: sizes, rates and filters, checked."""
    check_images(name, x)
    op = FilteredLrelu(type=type_code(name, x), flip=flip)
    op.fu, op.fd = filter_of(name, fu, x), filter_of(name, fd, x)
    op.planes = x.shape[0] * x.shape[1]
    if op.planes >= _MOST_PLANES:
        raise RuntimeError(
            f"{name}: {op.planes} planes (samples times channels) are beyond what the kernels "
            "count with"
        )
    op.channels = checked(name, "the channels", x.shape[1])
    op.in_h, op.in_w = (
        checked(name, "the height", x.shape[2]),
        checked(name, "the width", x.shape[3]),
    )
    (op.up_x, op.up_y), (op.down_x, op.down_y) = rates(name, up), rates(name, down)
    op.pad_x, op.pad_y = (checked(name, "padding", padding[i]) for i in (0, 2))
    op.mid_w = resampled(name, op.in_w * op.up_x + sum(padding[:2]), op.fu.width, 1)
    op.mid_h = resampled(name, op.in_h * op.up_y + sum(padding[2:]), op.fu.height, 1)
    op.out_w = resampled(name, op.mid_w, op.fd.width, op.down_x)
    op.out_h = resampled(name, op.mid_h, op.fd.height, op.down_y)
    return op


def _prepared(op: FilteredLrelu, x: torch.Tensor, *, writes_flags: bool) -> _Call:
    shape = (*x.shape[:2], op.out_h, op.out_w)
    flags_shape = (*x.shape[:2], op.mid_h, op.flags_stride)
    kind = find_kind(op) if x.dtype != torch.float64 else None
    launches: tuple[_Launch, ...] = ()
    if kind is not None and op.planes:
        launches = _fused(op, kind, x, writes_flags)
    return _Call(bytes(op), shape, flags_shape, launches, op.planes == 0, op.sums_plane)


def _fused(
    op: FilteredLrelu, kind: Kind, x: torch.Tensor, writes_flags: bool
) -> tuple[_Launch, ...]:
    index = index_of(x)
    if _has_tensor_cores(index) and x.dtype in HALVES and suits_bands(op):
        mode = "READ_FLAGS" if op.read_flags else ("WRITE_FLAGS" if writes_flags else "NO_FLAGS")
        functions = load_program(band_program(kind.family, x.dtype), index)
        function = functions[band_kernel(kind, x.dtype, mode)]
        plan = band_plan(kind, op.out_w, op.out_h)
        tiles = -(-op.out_w // plan.cols) * -(-op.out_h // plan.rows)
        threads, planes = plan.warps * 32, planes_of_block(op.planes, tiles)
    else:
        functions = load_program(tile_program(kind.family, x.dtype), index)
        function = functions[tile_kernel(kind, x.dtype, bool(op.read_flags))]
        tile = plain_shape(kind)
        plan, threads, planes = BandPlan(tile.width, tile.height), tile.threads, 1
    op.sums_x = -(-op.out_w // plan.cols)
    op.sums_plane = op.sums_x * -(-op.out_h // plan.rows) * max(plan.warps, 1)
    grids = tile_grids(op, plan, planes)
    return tuple(_Launch(function, blocks, threads, grid) for blocks, grid in grids)


def _has_tensor_cores(index: int) -> bool:
    return use_tensor_cores() and cuda_device.access.capability(index) >= _OLDEST_TENSOR_CORES


def _run(
    name: str,
    call: _Call,
    x: torch.Tensor,
    fu: torch.Tensor | None,
    fd: torch.Tensor | None,
    b: torch.Tensor | None,
    flags: torch.Tensor | None,
    sums: torch.Tensor | None = None,
) -> torch.Tensor:
    y = x.new_empty(call.shape)
    if call.is_empty:
        return y
    op = FilteredLrelu.from_buffer_copy(call.template)
    op.x, op.y, op.b, op.flags = x.data_ptr(), y.data_ptr(), pointer(b), pointer(flags)
    op.fu.taps, op.fd.taps, op.sums = pointer(fu), pointer(fd), pointer(sums)
    if not call.launches:
        run_generic(name, op, x)
    index = index_of(x)
    for function, blocks, threads, grid in call.launches:
        launch(name, function, blocks, threads, (op, grid), index)
    return y
