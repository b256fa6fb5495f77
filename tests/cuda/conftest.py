"""The kernels' headers built for the host, and calls into them with torch tensors."""

import ctypes
import hashlib
import math
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from sg3flow.downloads import cache_folder
from sg3flow.kernels.cuda_compile import SOURCES
from sg3flow.ops.cuda_structs import TYPE_CODES, BiasAct, Filter, FilteredLrelu, Upfirdn

_BUILDS = cache_folder() / "test-builds"  # asked now: tests give themselves empty caches

_UP2, _UP4, _RADIAL = (12,), (24,), (12, 12)
# (up, shape of fu, down, shape of fd, padding): the layers of T and R, from their schedules ...
LAYERS = {
    "t": (2, _UP2, 2, _UP2, (9, 8, 9, 8)),
    "t-up4": (4, _UP4, 2, _UP2, (-6, -9, -6, -9)),
    "t-last": (2, _UP2, 2, _UP2, (-11, -12, -11, -12)),
    "r": (2, _UP2, 2, _RADIAL, (11, 10, 11, 10)),
    "r-up4": (4, _UP4, 2, _RADIAL, (-2, -5, -2, -5)),
    # ... with every phase of the padding ...
    "odd": (2, _UP2, 2, _UP2, (10, 3, -4, 7)),
    "odd-up4": (4, _UP4, 2, _UP2, (7, 2, -5, 9)),
    "odd-radial": (4, _UP4, 2, _RADIAL, (5, 2, -3, 4)),
}
# ... and what only the generic kernel computes
OTHERS = {
    "down4": (1, None, 4, _UP4, (3, 30, 28, 2)),
    "up3": (3, (6,), 2, (5, 4), (2, 4, 3, 3)),
    "identity": (1, None, 1, None, (0, 0, 0, 0)),
    "padded": (1, (3,), 1, None, (2, -1, 3, 0)),
    "lone taps": (2, (1,), 3, (3, 3), (1, 2, 0, 3)),
    "cropped": (2, _UP2, 2, (7,), (-13, -12, -14, -11)),
}


def draw(*shape, seed=0, dtype=torch.float32, device="cpu"):
    """Normal numbers, equal for every dtype and device up to rounding."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(device=device, dtype=dtype)


def _filter_of(shape, seed, device):
    return (
        None if shape is None else draw(*shape, seed=seed, device=device) / math.prod(shape) ** 0.5
    )


def make_layer(kind, size, dtype=torch.float32, device="cpu", planes=(2, 3)):
    """(x, fu, fd, b, options) of a layer; the options are those of filtered_lrelu."""
    up, up_shape, down, down_shape, padding = {**LAYERS, **OTHERS}[kind]
    x = draw(*planes, *size, dtype=dtype, device=device)
    b = draw(planes[1], seed=1, dtype=dtype, device=device)
    fu, fd = _filter_of(up_shape, 2, device), _filter_of(down_shape, 3, device)
    return x, fu, fd, b, {"up": (up, up), "down": (down, down), "padding": padding}


@pytest.fixture
def numbers():
    return draw


@pytest.fixture
def layer():
    return make_layer


@pytest.fixture(params=LAYERS)
def layer_kind(request) -> str:
    return request.param


@pytest.fixture(params=[*LAYERS, *OTHERS])
def any_kind(request) -> str:
    return request.param


@pytest.fixture(params=[kind for kind, values in LAYERS.items() if values[3] != _RADIAL])
def separable_kind(request) -> str:
    return request.param


def _filter(f):
    if f is None:
        return Filter(None, 1, 1, 0)
    return Filter(f.data_ptr(), f.shape[-1], f.shape[0], int(f.ndim == 1))


def _taps(f):
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


class HostKernels:
    """The ops of the compiled library, computed on the host by the kernels' own functions.

    The calls follow the schemas of the ops: pairs are (x, y), `padding` is (x0, x1, y0, y1).
    `tiles` names the functions that run: "plain" tiles, "bands" (the tiles on the tensor cores,
    emulated) or "generic".
    """

    def __init__(self, library):
        self._library = library

    def place(self, tensor):
        """The memory of a result."""
        return tensor

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
        self._library.host_upfirdn2d(ctypes.byref(op))
        return y

    def bias_act(self, x, b, slope, gain, clamp, grad=None):
        """bias_act of x, or for a `grad` bias_act_grad, where x is the op's result."""
        y = torch.full_like(x, math.nan)
        op = BiasAct(x=x.data_ptr(), y=y.data_ptr(), count=x.numel(), channels=x.shape[1])
        op.inner, op.type = math.prod(x.shape[2:]), TYPE_CODES[x.dtype]
        op.slope, op.gain, op.clamp = slope, gain, clamp
        op.b = None if b is None else b.data_ptr()
        op.grad = None if grad is None else grad.data_ptr()
        self._library.host_bias_act(ctypes.byref(op))
        return y

    def filtered_lrelu(self, x, fu, fd, b, write_flags=True, **options):
        """Forward: (y, flags)."""
        op, y, _workspace = self._op(x, fu, fd, b, **options)
        size = (*x.shape[:2], op.mid_h, -(-op.mid_w // 4))
        flags = self.place(torch.full(size, 0xAA, dtype=torch.uint8))
        op.flags_w, op.flags_h = op.mid_w, op.mid_h
        op.flags = flags.data_ptr() if write_flags else None
        op.flags_stride = flags.shape[-1]
        self._run(op, options["tiles"])
        return y, flags

    def flagged(self, g, flags, fu, fd, offset, flags_width, **options):
        op, y, _workspace = self._op(g, fu, fd, None, clamp=-1.0, **options)
        op.read_flags, op.flags, op.flags_w = 1, flags.data_ptr(), flags_width
        op.flags_h, op.flags_stride = flags.shape[2:]
        op.offset_x, op.offset_y = offset
        self._run(op, options["tiles"])
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
        mid = x.new_full((*x.shape[:2], op.mid_h, op.mid_w), math.nan)
        op.y, op.workspace = y.data_ptr(), mid.data_ptr()
        return op, y, mid

    def _run(self, op, tiles):
        run = {
            "plain": self._library.host_tiles,
            "bands": self._library.host_bands,
            "generic": self._library.host_generic,
        }[tiles]
        done = run(ctypes.byref(op))
        if done == -1:
            pytest.skip("the C++ compiler has no 16-bit floats")
        assert done, "no tile kind fits"


def _digest(command: Sequence[str]) -> str:
    """A digest of everything that the output of a compiler depends on."""
    compiler = subprocess.run([command[0], "--version"], capture_output=True, check=True)
    digest = hashlib.sha256(repr([*command, torch.__version__]).encode() + compiler.stdout)
    here = Path(__file__).parent
    for path in [
        *sorted(SOURCES.iterdir()),
        *sorted(here.rglob("*.cpp")),
        *sorted(here.rglob("*.h")),
    ]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


@pytest.fixture(scope="session")
def compiled() -> Callable[..., str]:
    """`compiled(command, target)`: runs a compiler, or takes its output from a cache.

    The cache key is the command without `-o target`, the compiler, torch and every source. Returns
    the error output if the compiler fails.
    """

    def make(command: Sequence[str], target: Path) -> str:
        kept = _BUILDS / f"{target.name}-{_digest(command)}"
        if not kept.exists():
            whole = [*command, "-o", str(target)]
            built = subprocess.run(whole, capture_output=True, text=True, timeout=300)
            if built.returncode:
                return built.stderr or "no output"
            for old in _BUILDS.glob(f"{target.name}-*"):
                old.unlink(missing_ok=True)
            _BUILDS.mkdir(parents=True, exist_ok=True)
            half = kept.with_name(f".{kept.name}.{target.parent.name}")
            shutil.copy(target, half)
            half.rename(kept)
        shutil.copy(kept, target)
        return ""

    return make


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory, compiled) -> HostKernels:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or c++) to build the kernels' functions for the host")
    library = tmp_path_factory.mktemp("host") / "kernels.so"
    source = Path(__file__).with_name("host_build.cpp")
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    said = compiled([compiler, *flags, f"-I{SOURCES}", str(source)], library)
    assert not said, said
    return HostKernels(ctypes.CDLL(str(library)))
