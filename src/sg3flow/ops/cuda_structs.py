"""The parameters of the CUDA kernels as ctypes structures, laid out as in ``cuda/launch.h``.

Pairs are (x, y); see that file for the meaning of each field. ``layout_assertions`` lets every
compilation check that both agree.
"""

import ctypes
from collections.abc import Iterator

import torch

_POINTER, _REAL = ctypes.c_void_p, ctypes.c_double
_INT, _LONG = ctypes.c_int32, ctypes.c_int64

# enum Sg3Type, and the name of each type in the kernels' sources.
TYPE_CODES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}


def _ints(names: str) -> list[tuple[str, type[ctypes.c_int32]]]:
    return [(name, _INT) for name in names.split()]


class Filter(ctypes.Structure):
    """A FIR filter; without taps, of width and height 1, the identity."""

    _fields_ = [("taps", _POINTER), *_ints("width height separable")]


class Upfirdn(ctypes.Structure):
    """One upfirdn2d."""

    _fields_ = [
        *(("x", _POINTER), ("y", _POINTER), ("filter", Filter), ("planes", _LONG)),
        *_ints("type in_w in_h out_w out_h up_x up_y down_x down_y pad_x pad_y flip"),
        ("gain", _REAL),
    ]


class FilteredLrelu(ctypes.Structure):
    """One filtered_lrelu, or with ``read_flags`` one filtered_lrelu_flagged."""

    _fields_ = [
        *((name, _POINTER) for name in ("x", "b", "y", "flags", "workspace")),
        *(("fu", Filter), ("fd", Filter), ("planes", _LONG)),
        *_ints("channels type in_w in_h mid_w mid_h out_w out_h up_x up_y down_x down_y"),
        *_ints("pad_x pad_y flip"),
        *((name, _REAL) for name in ("gain", "slope", "limit")),
        *_ints("read_flags flags_w flags_h flags_stride offset_x offset_y"),
        ("sums", _POINTER),
        *_ints("sums_x sums_plane"),
    ]


class BiasAct(ctypes.Structure):
    """One bias_act, or with ``grad`` one bias_act_grad."""

    _fields_ = [
        *((name, _POINTER) for name in ("x", "b", "grad", "y")),
        *(("count", _LONG), ("inner", _LONG)),
        *_ints("channels type"),
        *((name, _REAL) for name in ("slope", "gain", "clamp")),
    ]


class ActFilter(ctypes.Structure):
    """One act_filter, or with its flags a gradient of it."""

    _fields_ = [
        *((name, _POINTER) for name in ("x", "b", "base", "y", "flags", "sums")),
        *(("filter", Filter), ("planes", _LONG)),
        *_ints("channels type in_w in_h out_w out_h pad_x pad_y tiles_x tiles_y"),
        *((name, _REAL) for name in "slope gain clamp".split()),
    ]


class Weights(ctypes.Structure):
    """One scaled_weights, or with ``grad`` one scaled_weights_grad."""

    _fields_ = [
        *((name, _POINTER) for name in ("w", "a", "b", "y", "grad", "dw", "da", "db")),
        *_ints("samples outputs inputs"),
    ]


class Demodulation(ctypes.Structure):
    """One demodulation, or with ``grad`` one demodulation_grad."""

    _fields_ = [
        *((name, _POINTER) for name in ("w", "s", "y", "a", "grad", "dw", "ds")),
        *_ints("samples outputs inputs relative"),
        ("eps", ctypes.c_float),
    ]


class BandPlan(ctypes.Structure):
    """The size of the tiles of a launch, in outputs and in 16 upsampled samples."""

    _fields_ = _ints("cols rows blocks warps")


class TileGrid(ctypes.Structure):
    """The tiles of a launch."""

    _fields_ = [
        *(("first_plane", _LONG), ("end_plane", _LONG)),
        *_ints("tiles_x tiles_y planes"),
        ("plan", BandPlan),
    ]


# The name of each structure in `cuda/launch.h`.
C_NAMES: dict[type[ctypes.Structure], str] = {
    Filter: "Sg3Filter",
    Upfirdn: "Sg3Upfirdn",
    FilteredLrelu: "Sg3FilteredLrelu",
    BiasAct: "Sg3BiasAct",
    ActFilter: "Sg3ActFilter",
    Weights: "Sg3Weights",
    Demodulation: "Sg3Demodulation",
    BandPlan: "Sg3BandPlan",
    TileGrid: "Sg3TileGrid",
}


def layout_assertions() -> str:
    """C++ that compiles only if the structures of ``cuda/launch.h`` are laid out as these.

    NVRTC before 13.5 has no ``offsetof``, and checks sizes alone.
    """
    sizes = "".join(line for struct in C_NAMES for line in _sizes(struct))
    offsets = "".join(line for struct in C_NAMES for line in _offsets(struct))
    can = "!defined(__CUDACC_RTC__) || __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1305"
    return f"#if {can}\n{offsets}#endif\n{sizes}"


def _sizes(struct: type[ctypes.Structure]) -> Iterator[str]:
    name = C_NAMES[struct]
    yield f'static_assert(sizeof({name}) == {ctypes.sizeof(struct)}, "size of {name}");\n'
    for field, *_ in struct._fields_:
        size = getattr(struct, field).size
        yield f'static_assert(sizeof({name}::{field}) == {size}, "size of {name}.{field}");\n'


def _offsets(struct: type[ctypes.Structure]) -> Iterator[str]:
    name = C_NAMES[struct]
    for field, *_ in struct._fields_:
        offset, place = getattr(struct, field).offset, f"__builtin_offsetof({name}, {field})"
        yield f'static_assert({place} == {offset}, "place of {name}.{field}");\n'
