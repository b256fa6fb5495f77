"""filtered_lrelu of any filters and rates on a GPU: memory and launches of the generic kernels."""

import ctypes

import torch

from sg3flow.ops.cuda_device import index_of
from sg3flow.ops.cuda_launch import launch_over, load_program, long
from sg3flow.ops.cuda_programs import bend_kernel, generic_program, second_kernel, sum_type
from sg3flow.ops.cuda_structs import FilteredLrelu, Upfirdn

_WORKSPACE_SAMPLES = 1 << 24


def run_generic(name: str, op: FilteredLrelu, x: torch.Tensor) -> None:
    """Two steps through a workspace that holds some planes, or one without a second filter."""
    functions = load_program(generic_program(x.dtype), index_of(x))
    if not op.fd.taps and op.down_x == op.down_y == 1:
        bend = functions[bend_kernel(x.dtype, x.dtype)]
        _bend(name, op, bend, (0, op.planes), op.y, op.gain, index_of(x))
        return
    middle = sum_type(x.dtype)
    bend, second = functions[bend_kernel(x.dtype, middle)], functions[second_kernel(x.dtype)]
    some = min(max(_WORKSPACE_SAMPLES // (op.mid_w * op.mid_h), 1), op.planes)
    # Handed on at the end by torch's allocator, in the order of the stream.
    workspace = x.new_empty((some, op.mid_h, op.mid_w), dtype=middle)
    op.workspace = workspace.data_ptr()
    for first in range(0, op.planes, some):
        planes = min(op.planes - first, some)
        _bend(name, op, bend, (first, planes), op.workspace, 1.0, index_of(x))
        step = _second_step(op, first, planes, x.element_size())
        count = planes * op.out_h * op.out_w
        launch_over(name, second, count, (step, long(count)), index_of(x))


def _bend(
    name: str,
    op: FilteredLrelu,
    function: int,
    part: tuple[int, int],
    to: int,
    gain: float,
    index: int,
) -> None:
    """The first step on a part of the planes, (first, number)."""
    first, planes = part
    count = planes * op.mid_h * ((op.mid_w + 3) // 4)
    parameters = (op, long(first), long(count), ctypes.c_void_p(to), ctypes.c_double(gain))
    launch_over(name, function, count, parameters, index)


def _second_step(op: FilteredLrelu, first: int, planes: int, element_bytes: int) -> Upfirdn:
    """The second step on some planes, from the workspace to their place in the result."""
    step = Upfirdn(x=op.workspace, filter=op.fd, planes=planes, type=op.type, flip=op.flip)
    step.y = op.y + first * op.out_h * op.out_w * element_bytes
    step.in_w, step.in_h, step.out_w, step.out_h = op.mid_w, op.mid_h, op.out_w, op.out_h
    step.up_x = step.up_y = 1
    step.down_x, step.down_y, step.gain = op.down_x, op.down_y, op.gain
    return step
