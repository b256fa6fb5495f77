"""The programs of the CUDA kernels: what of ``cuda/`` is compiled together, for each dtype.

A training compiles the programs that its networks use and no others.
"""

import functools

import torch

from sg3flow.kernels.cuda_compile import Program
from sg3flow.ops.cuda_structs import layout_assertions
from sg3flow.ops.cuda_tiles import FAMILIES, KINDS, Kind, band_assertions, shape_assertions

C_TYPES = {
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
    torch.float32: "float",
    torch.float64: "double",
}
HALVES = (torch.float16, torch.bfloat16)


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """What sums run in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """``float16`` for torch.float16."""
    return str(dtype).removeprefix("torch.")


def bias_act_kernel(dtype: torch.dtype, count: int, is_long: bool) -> str:
    """`count` elements per thread; 64-bit indices for a long tensor."""
    return (
        f"sg3::bias_act_kernel<{C_TYPES[dtype]}, {count}, {'int64_t' if is_long else 'uint32_t'}>"
    )


def widest(dtype: torch.dtype) -> int:
    """Elements of 16 bytes."""
    return 16 // dtype.itemsize


KERNEL_SIZES = (1, 9)  # elements of a convolution's kernel that modulation is compiled for
RUNS = (4, 2, 1)  # elements that a thread of scale_kernel takes at once


def scale_kernel(dtype: torch.dtype, taps: int, count: int) -> str:
    """The weights of each sample."""
    return f"sg3::scale_kernel<{C_TYPES[dtype]}, {taps}, {count}>"


def scale_grad_kernel(dtype: torch.dtype, taps: int) -> str:
    """Their gradients."""
    return f"sg3::scale_grad_kernel<{C_TYPES[dtype]}, {taps}>"


def demodulation_kernel(taps: int, part: str = "") -> str:
    """The factors that demodulate, or their gradient of w or s: the part ``dw`` or ``ds``."""
    return f"sg3::demodulation_{part}{'_' if part else ''}kernel<{taps}>"


def upfirdn_kernel(dtype: torch.dtype) -> str:
    """Any filter and rates."""
    return f"sg3::upfirdn_kernel<{C_TYPES[dtype]}>"


def small_kernel(dtype: torch.dtype, up: int, down: int) -> str:
    """A 4x4 filter."""
    return f"sg3::small_kernel<{C_TYPES[dtype]}, {up}, {down}>"


def small_add_kernel(dtype: torch.dtype, up: int, down: int) -> str:
    """A 4x4 filter, added to a tensor."""
    return f"sg3::small_add_kernel<{C_TYPES[dtype]}, {up}, {down}>"


def act_filter_kernel(dtype: torch.dtype, part: str, filtered: bool) -> str:
    """Activation and filter, or what flags tell of them: the part "", ``flagged`` or ``grad``."""
    kernel = f"act_filter_{part}{'_' if part else ''}kernel"
    form = "" if part == "flagged" else f", {str(filtered).lower()}"
    return f"sg3::{kernel}<{C_TYPES[dtype]}{form}>"


SMALL_RATES = ((1, 1), (2, 1), (1, 2))


def bend_kernel(dtype: torch.dtype, middle: torch.dtype) -> str:
    """The first generic step of filtered_lrelu; its result has the dtype `middle`."""
    return f"sg3::bend_kernel<{C_TYPES[dtype]}, {C_TYPES[middle]}>"


def second_kernel(dtype: torch.dtype) -> str:
    """The second generic step."""
    return f"sg3::second_kernel<{C_TYPES[dtype]}>"


def tile_kernel(kind: Kind, dtype: torch.dtype, reads_flags: bool) -> str:
    """A kind of tile without tensor cores."""
    reads = str(reads_flags).lower()
    return f"sg3::tile_kernel<sg3::PlainTile<{kind.arguments()}>, {C_TYPES[dtype]}, {reads}>"


def band_kernel(kind: Kind, dtype: torch.dtype, mode: str) -> str:
    """A kind of tile on the tensor cores; the mode is one of ``Kind.flag_modes``."""
    return f"sg3::band_kernel<sg3::BandShape<{kind.arguments()}>, {C_TYPES[dtype]}, sg3::{mode}>"


@functools.cache
def bias_act_program(dtype: torch.dtype) -> Program:
    """bias_act and bias_act_grad."""
    kernels = [
        bias_act_kernel(dtype, n, long) for n in (widest(dtype), 1) for long in (False, True)
    ]
    return _program(f"bias_act-{dtype_name(dtype)}", "bias_act.cu", kernels)


@functools.cache
def sample_weights_program(dtype: torch.dtype) -> Program:
    """scaled_weights and scaled_weights_grad."""
    kernels = [scale_kernel(dtype, taps, count) for taps in KERNEL_SIZES for count in RUNS]
    kernels += [scale_grad_kernel(dtype, taps) for taps in KERNEL_SIZES]
    return _program(f"sample_weights-{dtype_name(dtype)}", "sample_weights.cu", kernels)


@functools.cache
def demodulation_program() -> Program:
    """demodulation and demodulation_grad, in float32."""
    parts = ("", "dw", "ds")
    kernels = [demodulation_kernel(taps, part) for taps in KERNEL_SIZES for part in parts]
    return _program("demodulation", "demodulation.cu", kernels)


@functools.cache
def upfirdn2d_program(dtype: torch.dtype) -> Program:
    """upfirdn2d of any filter, and unrolled ones for 4x4 filters."""
    kernels = [upfirdn_kernel(dtype)]
    if dtype != torch.float64:
        kernels += [small_kernel(dtype, *rates) for rates in SMALL_RATES]
    return _program(f"upfirdn2d-{dtype_name(dtype)}", "upfirdn2d.cu", kernels)


@functools.cache
def upfirdn2d_add_program(dtype: torch.dtype) -> Program:
    """upfirdn2d_add for 4x4 filters."""
    kernels = [small_add_kernel(dtype, *rates) for rates in SMALL_RATES]
    return _program(f"upfirdn2d_add-{dtype_name(dtype)}", "upfirdn2d_add.cu", kernels)


@functools.cache
def act_filter_program(dtype: torch.dtype) -> Program:
    """act_filter and its gradients."""
    kernels = [act_filter_kernel(dtype, part, f) for part in ("", "grad") for f in (True, False)]
    kernels.append(act_filter_kernel(dtype, "flagged", True))
    return _program(f"act_filter-{dtype_name(dtype)}", "act_filter.cu", kernels)


@functools.cache
def generic_program(dtype: torch.dtype) -> Program:
    """filtered_lrelu of any filters and rates, in one or two steps."""
    middles = dict.fromkeys((dtype, sum_type(dtype)))
    kernels = [*(bend_kernel(dtype, middle) for middle in middles), second_kernel(dtype)]
    return _program(f"filtered_lrelu-{dtype_name(dtype)}", "filtered_lrelu.cu", kernels)


@functools.cache
def tile_program(family: str, dtype: torch.dtype) -> Program:
    """The fused filtered_lrelu of a family of kinds, without tensor cores."""
    kinds = [kind for kind in KINDS if kind.family == family]
    kernels = [
        tile_kernel(kind, dtype, reads)
        for kind in kinds
        for reads in ((True,) if kind.gradient_only else (False, True))
    ]
    name = f"filtered_lrelu_tiles-{family}-{dtype_name(dtype)}"
    return _program(name, "filtered_lrelu_tiles.cu", kernels, "".join(map(shape_assertions, kinds)))


@functools.cache
def band_program(family: str, dtype: torch.dtype) -> Program:
    """The fused filtered_lrelu of a family of kinds in half precision, on the tensor cores."""
    kinds = [kind for kind in KINDS if kind.family == family]
    kernels = [band_kernel(kind, dtype, mode) for kind in kinds for mode in kind.flag_modes()]
    name = f"filtered_lrelu_bands-{family}-{dtype_name(dtype)}"
    return _program(name, "filtered_lrelu_bands.cu", kernels, "".join(map(band_assertions, kinds)))


def all_programs(has_tensor_cores: bool = True) -> list[Program]:
    """Every program there is for a GPU; those with `has_tensor_cores` from 8.0 on."""
    programs = [
        make(dtype)
        for dtype in C_TYPES
        for make in (bias_act_program, upfirdn2d_program, generic_program)
    ]
    singles = [dtype for dtype in C_TYPES if dtype != torch.float64]
    programs += [upfirdn2d_add_program(dtype) for dtype in singles]
    programs += [act_filter_program(dtype) for dtype in singles]
    programs += [sample_weights_program(dtype) for dtype in singles] + [demodulation_program()]
    programs += [tile_program(family, dtype) for family in FAMILIES for dtype in singles]
    if has_tensor_cores:
        programs += [band_program(family, dtype) for family in FAMILIES for dtype in HALVES]
    return programs


def _program(name: str, source: str, kernels: list[str], checks: str = "") -> Program:
    return Program(name, source, tuple(kernels), layout_assertions() + checks)
