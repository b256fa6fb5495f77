"""Single kernels on the host, without torch's dispatcher, the ops' checks, or a driver."""

import ctypes
import math
from pathlib import Path

import torch

from sg3flow.ops.cuda_launch import THREADS
from sg3flow.ops.cuda_programs import (
    band_kernel,
    bend_kernel,
    bias_act_kernel,
    second_kernel,
    sum_type,
    tile_kernel,
    upfirdn_kernel,
)
from sg3flow.ops.cuda_structs import (
    TYPE_CODES,
    BandPlan,
    BiasAct,
    Filter,
    FilteredLrelu,
    Upfirdn,
)
from sg3flow.ops.cuda_tiles import (
    band_plan,
    find_kind,
    plain_shape,
    suits_bands,
    tile_grids,
)

_PLANES = 4  # of a block of the tiles on the tensor cores


def _filter(f):
    if f is None:
        return Filter(None, 1, 1, 0)
    return Filter(f.data_ptr(), f.shape[-1], f.shape[0], int(f.ndim == 1))


def _taps(f):
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


class HostKernels:
    """The calls follow the schemas of the ops: pairs are (x, y), `padding` is (x0, x1, y0, y1).

    `tiles` names the kernels: "plain" tiles, "bands" (the tiles on the tensor cores, which exist
    here in float32, too) or "generic".
    """

    def __init__(self, library: Path):
        self._library = ctypes.CDLL(str(library))

    def place(self, tensor):
        """The memory of a result."""
        return tensor

    def run(self, kernel, blocks, threads, *parameters):
        """One launch."""
        places = (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, parameters))
        expression = kernel.replace("sg3::", "").encode()
        assert self._library.stand_in_run(expression, blocks, threads, places), kernel

    def run_over(self, kernel, count, *parameters):
        """One launch over `count` elements."""
        self.run(kernel, -(-count // THREADS), THREADS, *parameters)

    def upfirdn2d(self, x, f, up, down, padding, flip, gain):
        width, height = _taps(f)
        out_w = (x.shape[3] * up[0] + padding[0] + padding[1] - width) // down[0] + 1
        out_h = (x.shape[2] * up[1] + padding[2] + padding[3] - height) // down[1] + 1
        y = x.new_full((*x.shape[:2], out_h, out_w), math.nan)
        op = Upfirdn(x=x.data_ptr(), y=y.data_ptr(), filter=_filter(f), gain=gain, flip=flip)
        op.planes, op.type = x.shape[0] * x.shape[1], TYPE_CODES[x.dtype]
        op.in_h, op.in_w, op.out_h, op.out_w = *x.shape[2:], out_h, out_w
        (op.up_x, op.up_y), (op.down_x, op.down_y) = up, down
        op.pad_x, op.pad_y = padding[0], padding[2]
        self.run_over(upfirdn_kernel(x.dtype), y.numel(), op, ctypes.c_int64(y.numel()))
        return y

    def bias_act(self, x, b, slope, gain, clamp, grad=None):
        """bias_act of x, or for a `grad` bias_act_grad, where x is the op's result."""
        y = torch.full_like(x, math.nan)
        op = BiasAct(x=x.data_ptr(), y=y.data_ptr(), count=x.numel(), channels=x.shape[1])
        op.inner, op.type = math.prod(x.shape[2:]), TYPE_CODES[x.dtype]
        op.slope, op.gain, op.clamp = slope, gain, clamp
        op.b = None if b is None else b.data_ptr()
        op.grad = None if grad is None else grad.data_ptr()
        self.run_over(bias_act_kernel(x.dtype, 1, False), x.numel(), op)
        return y

    def filtered_lrelu(self, x, fu, fd, b, write_flags=True, **options):
        """Forward: (y, flags)."""
        op, y = self._op(x, fu, fd, b, **options)
        size = (*x.shape[:2], op.mid_h, -(-op.mid_w // 4))
        flags = self.place(torch.full(size, 0xAA, dtype=torch.uint8))
        op.flags_w, op.flags_h = op.mid_w, op.mid_h
        op.flags = flags.data_ptr() if write_flags else None
        op.flags_stride = flags.shape[-1]
        self._run(op, options["tiles"], x.dtype)
        return y, flags

    def flagged(self, g, flags, fu, fd, offset, flags_width, **options):
        op, y = self._op(g, fu, fd, None, clamp=-1.0, **options)
        op.read_flags, op.flags, op.flags_w = 1, flags.data_ptr(), flags_width
        op.flags_h, op.flags_stride = flags.shape[2:]
        op.offset_x, op.offset_y = offset
        self._run(op, options["tiles"], g.dtype)
        return y

    def _op(self, x, fu, fd, b, up, down, padding, flip, gain, slope, clamp, tiles):
        (uw, uh), (dw, dh) = _taps(fu), _taps(fd)
        op = FilteredLrelu(x=x.data_ptr(), fu=_filter(fu), fd=_filter(fd), flip=flip)
        op.planes, op.channels, op.type = x.shape[0] * x.shape[1], x.shape[1], TYPE_CODES[x.dtype]
        op.in_h, op.in_w = x.shape[2:]
        op.mid_w = op.in_w * up[0] + padding[0] + padding[1] - uw + 1
        op.mid_h = op.in_h * up[1] + padding[2] + padding[3] - uh + 1
        op.out_w, op.out_h = (op.mid_w - dw) // down[0] + 1, (op.mid_h - dh) // down[1] + 1
        (op.up_x, op.up_y), (op.down_x, op.down_y) = up, down
        op.pad_x, op.pad_y = padding[0], padding[2]
        op.gain, op.slope, op.limit = gain, slope, clamp / gain
        op.b = None if b is None else b.data_ptr()
        y = self.place(x.new_full((*x.shape[:2], op.out_h, op.out_w), math.nan))
        op.y = y.data_ptr()
        return op, y

    def _run(self, op, tiles, dtype):
        if tiles == "generic":
            self._run_generic(op, dtype)
            return
        kind = find_kind(op)
        assert kind is not None and (tiles == "plain" or suits_bands(op)), "no tile kind fits"
        if tiles == "plain":
            shape = plain_shape(kind)
            plan, planes, threads = BandPlan(shape.width, shape.height), 1, shape.threads
            kernel = tile_kernel(kind, dtype, bool(op.read_flags))
        else:
            plan, planes = band_plan(kind, op.out_w, op.out_h), _PLANES
            mode = "READ_FLAGS" if op.read_flags else "WRITE_FLAGS" if op.flags else "NO_FLAGS"
            threads, kernel = plan.warps * 32, band_kernel(kind, dtype, mode)
        for blocks, grid in tile_grids(op, plan, planes):
            self.run(kernel, blocks, threads, op, grid)

    def _run_generic(self, op, dtype):
        """In two steps, through a workspace of all planes."""
        middle, zero = sum_type(dtype), ctypes.c_int64(0)
        mid = torch.full((op.planes, op.mid_h, op.mid_w), math.nan, dtype=middle)
        groups = ctypes.c_int64(op.planes * op.mid_h * -(-op.mid_w // 4))
        place, one = ctypes.c_void_p(mid.data_ptr()), ctypes.c_double(1)
        self.run_over(bend_kernel(dtype, middle), groups.value, op, zero, groups, place, one)
        step = Upfirdn(x=mid.data_ptr(), y=op.y, filter=op.fd, planes=op.planes, type=op.type)
        step.in_w, step.in_h, step.out_w, step.out_h = op.mid_w, op.mid_h, op.out_w, op.out_h
        step.up_x = step.up_y = 1
        step.down_x, step.down_y, step.flip, step.gain = op.down_x, op.down_y, op.flip, op.gain
        count = op.planes * op.out_h * op.out_w
        self.run_over(second_kernel(dtype), count, step, ctypes.c_int64(count))
