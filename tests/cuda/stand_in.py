"""The stand-ins for a GPU: their library, built once for all test processes, and what tests ask it.

``stand_in/`` has a driver and an NVRTC (``checks``: they check all that a launch is given), and the
kernels for the host (``whole``: a launch also runs its kernel).
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stand_in_tensors
from filelock import FileLock

from sg3flow.kernels.cuda_compile import SOURCES
from sg3flow.ops import (
    backend,
    cuda_act_filter,
    cuda_bias_act,
    cuda_device,
    cuda_filtered_lrelu,
    cuda_launch,
    cuda_modulation,
    cuda_upfirdn2d,
)
from sg3flow.ops.cuda_structs import (
    ActFilter,
    BiasAct,
    Demodulation,
    FilteredLrelu,
    TileGrid,
    Upfirdn,
    Weights,
    layout_assertions,
)
from sg3flow.ops.cuda_tiles import KINDS, band_assertions, shape_assertions
from sg3flow.settings import cache_folder

FOLDER = Path(__file__).with_name("stand_in")
_BUILDS = cache_folder() / "test-builds"  # asked now: tests give themselves empty caches
_CHECKS = ("driver", "nvrtc")
# one of each file for a core; `bands` takes by far the longest
_KERNELS = ("bands -DTYPE=__half", "bands -DTYPE=float", "others")
_FLAGS = ("-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}")
# shared memory is a variable that no one sets at first
_OPTIMIZED = (
    "-O2",
    "-fno-gcse",
    "-fno-tree-pre",
    "-fno-schedule-insns2",
    "-Wno-maybe-uninitialized",
)


def compiler() -> str:
    """The C++ compiler, or the test is skipped."""
    found = shutil.which("g++") or shutil.which("c++")
    if found is None or sys.platform != "linux":
        pytest.skip("the stand-ins for a GPU need Linux and a C++ compiler (g++ or c++)")
    return found


def build(whole: bool, sanitize: bool = False) -> Path:
    """The library, from the cache of test builds if its sources and compiler are the same.

    CUDA's headers are expected beside it, as beside NVRTC.

    Args:
        sanitize: for the address sanitizer.
    """
    parts = _CHECKS + (_KERNELS if whole else ())
    name = "checks" if not whole else "sanitized" if sanitize else "whole"
    flags = (*_FLAGS, *(("-fsanitize=address",) if sanitize else ()))
    folder = _BUILDS / f"stand-in-{name}-{_digest(parts, flags)}"
    library = folder / "lib/stand_in.so"
    _BUILDS.mkdir(parents=True, exist_ok=True)
    with FileLock(_BUILDS / f".{name}.lock"):
        if not library.exists():
            _remove_old(name)
            _build(parts, flags, library)
    os.utime(folder)
    return library


def _remove_old(name: str) -> None:
    """Builds that no one has used for a day: other trees may be tested now."""
    for old in _BUILDS.glob(f"stand-in-{name}-*"):
        if time.time() - old.stat().st_mtime > 24 * 3600:
            shutil.rmtree(old)


_PLAN = """
extern "C" void stand_in_plan_{index}(int width, int height, int* out) {{
    Sg3FilteredLrelu op = {{}};
    op.out_w = width, op.out_h = height;
    const auto plan = sg3::band_plan<sg3::BandShape<{arguments}>>(op);
    out[0] = plan.cols, out[1] = plan.rows, out[2] = plan.blocks, out[3] = plan.warps;
}}
"""


def _generated() -> dict[str, str]:
    """Headers: what Python assumes of the sources, which compiles only if it holds."""
    tiles = "".join(shape_assertions(kind) + band_assertions(kind) for kind in KINDS)
    plans = "".join(
        _PLAN.format(index=index, arguments=kind.arguments()) for index, kind in enumerate(KINDS)
    )
    return {"layouts.h": layout_assertions(), "tiles.h": tiles + plans}


def _digest(parts: Sequence[str], flags: Sequence[str]) -> str:
    """Of all that decides the library."""
    asked = subprocess.run([compiler(), "--version"], capture_output=True, check=True)
    decides = repr((parts, flags, _OPTIMIZED, _generated()))
    digest = hashlib.sha256(decides.encode() + asked.stdout)
    for path in [*sorted(SOURCES.iterdir()), *sorted(FOLDER.iterdir())]:
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _build(parts: Sequence[str], flags: Sequence[str], library: Path) -> None:
    for folder in (library.parent, library.parents[1] / "include"):
        folder.mkdir(parents=True)
    headers = {"cuda_fp16.h": "// for the stand-in of NVRTC\n"} | _generated()
    for name, text in headers.items():
        (library.parents[1] / "include" / name).write_text(text)
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda part: _compiled(part, flags, library.parent), parts))
    made = library.with_suffix(".part")
    _run([compiler(), "-shared", *flags, *objects, "-ldl", "-o", str(made)])
    made.rename(library)


def _compiled(part: str, flags: Sequence[str], folder: Path) -> str:
    source, *defined = part.split()
    level = () if part in _CHECKS else _OPTIMIZED
    target = str(folder / f"{part}.o")
    options = [*flags, f"-I{folder.parent / 'include'}", *level, *defined]
    _run([compiler(), *options, "-c", str(FOLDER / f"{source}.cpp"), "-o", target])
    return target


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "has no 16-bit floats" in done.stderr:
        pytest.skip("the C++ compiler has no 16-bit floats")
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Launch:
    """A launch that the driver accepted.

    Attributes:
        kernel: name expression without spaces, or the lowered name if a real NVRTC compiled it.
        parameters: ctypes objects, as the kernel declares them.
    """

    kernel: str
    blocks: int
    threads: int
    device: int
    parameters: tuple[Any, ...]


class StandIn:
    """The loaded library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.stand_in_complaint.restype = ctypes.c_char_p
        self._library.stand_in_launch.restype = ctypes.c_void_p
        self._library.stand_in_stream.restype = ctypes.c_void_p
        self._library.stand_in_own.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
        self.own: Callable[[int, int, int], None] = self._library.stand_in_own

    def reset(self, capabilities: Sequence[int]) -> None:
        """Devices of these compute capabilities (10 * major + minor); nothing has happened."""
        self._library.stand_in_reset(
            (ctypes.c_int * len(capabilities))(*capabilities), len(capabilities)
        )
        self.capabilities = list(capabilities)

    def plan(self, kind: int, width: int, height: int) -> list[int]:
        """The tiles of a kind by the sources: columns, rows, blocks, warps."""
        out = (ctypes.c_int * 4)()
        self._library[f"stand_in_plan_{kind}"](width, height, out)
        return list(out)

    def set_driver_version(self, major: int, minor: int) -> None:
        self._library.stand_in_set_driver_version(major * 1000 + minor * 10)

    def set_capturing(self, capturing: bool) -> None:
        """Whether a CUDA graph is being captured."""
        self._library.stand_in_set_capturing(int(capturing))

    def fail(self, function: str, code: int, after: int = 0) -> None:
        """Let a function of the driver or of NVRTC fail once, after some calls."""
        self._library.stand_in_plan_fault(function.encode(), code, after)

    @property
    def complaint(self) -> str:
        """What was wrong with the last call that was refused."""
        return self._library.stand_in_complaint().decode()

    def use_device(self, index: int) -> None:
        """Make a device current in this thread; -1: no context."""
        self._library.stand_in_use_device(index)

    def current_device(self) -> int:
        """-1: this thread has no context."""
        return self._library.stand_in_current_device()

    def stream(self, index: int) -> int:
        return self._library.stand_in_stream(index)

    def launches(self) -> list[Launch]:
        """All since the last reset."""
        return [self._launch(index) for index in range(self._library.stand_in_launches())]

    def _launch(self, index: int) -> Launch:
        numbers, kernel, size = (ctypes.c_int64 * 4)(), ctypes.c_char_p(), ctypes.c_int()
        place = self._library.stand_in_launch(
            index, numbers, ctypes.byref(kernel), ctypes.byref(size)
        )
        name = (kernel.value or b"").decode()
        parameters = _parameters(name, ctypes.string_at(place, size.value))
        return Launch(name, numbers[0], numbers[1], numbers[3], parameters)


_LONG, _PLACE, _REAL = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_PARAMETERS = {
    "band_kernel": (FilteredLrelu, TileGrid),
    "tile_kernel": (FilteredLrelu, TileGrid),
    "bend_kernel": (FilteredLrelu, _LONG, _LONG, _PLACE, _REAL),
    "bias_act_kernel": (BiasAct,),
    "act_filter_": (ActFilter,),
    "small_add_kernel": (Upfirdn, _PLACE, _LONG),
    "scale_": (Weights,),
    "demodulation_": (Demodulation,),
}


def _parameters(kernel: str, content: bytes) -> tuple[Any, ...]:
    kinds = next((kinds for name, kinds in _PARAMETERS.items() if name in kernel), (Upfirdn, _LONG))
    found, at = [], 0
    for kind in kinds:
        found.append(kind.from_buffer_copy(content, at))
        at += ctypes.sizeof(kind)
    return tuple(found)


class StandInDevices:
    """``cuda_device.access`` to the devices of the stand-in driver.

    As torch does, it gives a thread a context when that changes its current device: at first a
    thread has none, and device 0 is current.
    """

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in, self._threads = stand_in, threading.local()
        self.capturing = False

    def cuda_major(self) -> int | None:
        return 13

    def current(self) -> int:
        return getattr(self._threads, "index", 0)

    def capability(self, index: int) -> tuple[int, int]:
        return divmod(self._stand_in.capabilities[index], 10)

    @contextmanager
    def guard(self, index: int) -> Iterator[None]:
        before = self.current()
        if index != before:
            self._make_current(index)
        yield
        if index != before:
            self._make_current(before)

    def _make_current(self, index: int) -> None:
        self._threads.index = index
        self._stand_in.use_device(index)

    def stream(self, index: int) -> int:
        return self._stand_in.stream(index)

    def is_capturing(self) -> bool:
        return self.capturing


@contextmanager
def installed(stand_in: StandIn, kernels: Path, *capabilities: int) -> Iterator[StandIn]:
    """GPUs of these compute capabilities are there, with a driver and NVRTC, in this process.

    Args:
        kernels: the folder of compiled kernels.
    """
    stand_in.reset(capabilities)
    stand_in.use_device(0)
    with pytest.MonkeyPatch.context() as patch, stand_in_tensors.StandInMode():
        for name in ("SG3FLOW_CUDA_DRIVER", "SG3FLOW_NVRTC"):
            patch.setenv(name, str(stand_in.path))
        patch.setenv("SG3FLOW_KERNELS", str(kernels))
        patch.setenv("SG3FLOW_OPS", "cuda")
        patch.setattr(cuda_device, "access", StandInDevices(stand_in))
        patch.setattr(stand_in_tensors, "tellers", [stand_in.own])
        backend.register_cuda_ops()
        forget()
        yield stand_in
    forget()
    stand_in.use_device(-1)


def forget() -> None:
    """As in a new process: no kernel is loaded, chosen or checked."""
    cuda_launch._loaded.clear()
    for module in (
        *(cuda_act_filter, cuda_bias_act, cuda_filtered_lrelu, cuda_modulation),
        cuda_upfirdn2d,
    ):
        module._calls.clear()
    for cached in (backend._chosen, backend._checked_part, cuda_filtered_lrelu.use_tensor_cores):
        cached.cache_clear()
