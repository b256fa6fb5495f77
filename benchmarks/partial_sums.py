"""Bytes of the partial sums that kernels write beside their results and an op adds up itself."""

import math
from typing import Any

import torch

from sg3flow.ops import cuda_act_filter, cuda_modulation
from sg3flow.ops.cuda_tiles import KINDS, Kind, band_plan, filter_shape, plain_shape

_FLOAT = 4  # bytes of a sum
_SAMPLES_AT_ONCE = 32  # inputs of a tile of the weights' gradient


def partial_sum_bytes(name: str, args: tuple[Any, ...], out: Any) -> int:
    """What the op `name` writes and reads again, in addition to its arguments and results."""
    if name == "filtered_lrelu_squares":
        x, fu, fd, _, up, down, *_ = args
        count = _sums_of_layer(x.dtype, (fu, fd), (up, down), out[0])
    elif name == "filtered_lrelu_flagged_sum":
        g, _, fu, fd, up, down, *_ = args
        count = _sums_of_layer(g.dtype, (fu, fd), (up, down), out[0])
    elif name == "act_filter_grad":
        grad, _, _, size, *_ = args
        sides = zip(grad.shape[2:], size, strict=True)
        count = math.prod(map(cuda_act_filter.tiles_of, sides)) * math.prod(grad.shape[:2])
    elif name == "scaled_weights_grad":
        count = _sums_of_weights(*args)
    else:
        return 0
    return 2 * _FLOAT * count


def _sums_of_layer(
    dtype: torch.dtype,
    filters: tuple[torch.Tensor | None, ...],
    rates: tuple[Any, ...],
    y: torch.Tensor,
) -> int:
    """Of a filtered_lrelu on the tensor cores, or in float32 on tiles without them."""
    shapes = [None if f is None else tuple(f.shape) for f in filters]
    kind = next((kind for kind in KINDS if _is_of(kind, shapes, rates)), None)
    if kind is None:
        return 0  # the sum is another op on the result
    height, width = y.shape[2:]
    if dtype == torch.float32:
        cols, rows, warps = plain_shape(kind).width, plain_shape(kind).height, 1
    else:
        plan = band_plan(kind, width, height)
        cols, rows, warps = plan.cols, plan.rows, plan.warps
    return math.prod(y.shape[:2]) * -(-width // cols) * -(-height // rows) * warps


def _is_of(kind: Kind, shapes: list[Any], rates: tuple[Any, ...]) -> bool:
    wanted = [filter_shape(kind.up_taps, kind.up_radial)]
    wanted.append(filter_shape(kind.down_taps, kind.down_radial))
    return shapes == wanted and [rate[0] for rate in rates] == [kind.up, kind.down]


def _sums_of_weights(
    grad: torch.Tensor, w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor
) -> int:
    output_tiles = -(-len(w) // cuda_modulation.OUTPUTS[w[0, 0].numel()])
    input_tiles = -(-w.shape[1] // _SAMPLES_AT_ONCE)
    return output_tiles * b.numel() + (0 if a is None else input_tiles * a.numel())
