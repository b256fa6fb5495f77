"""Kernels of a program on a device: loaded at the first use, launched on the current stream.

Loading takes time and memory of the device, which a CUDA graph that is being captured does not
allow: it is refused there. Launching neither waits nor allocates.
"""

import ctypes
import threading
from typing import Any

from sg3flow.errors import ConfigError
from sg3flow.kernels.cuda_compile import Program, compiled, target
from sg3flow.kernels.cuda_driver import DriverError, cuda_driver
from sg3flow.kernels.nvrtc import find_nvrtc
from sg3flow.kernels.watchdog import refuse_in_workers
from sg3flow.ops import cuda_device
from sg3flow.settings import OPS

THREADS = 256  # of a block of the kernels that go through all elements, as in `cuda/grid.cuh`
_MOST_BLOCKS = 1 << 20  # more would only queue up

_loaded: dict[tuple[str, int], dict[str, int]] = {}
_loading = threading.RLock()


def load_program(program: Program, index: int) -> dict[str, int]:
    """The handles of a program's kernels on a device, by their name expressions.

    Raises:
        ConfigError: the program does not compile or load, or this is a data loading process.
        RuntimeError: a CUDA graph is being captured, and this is the first use.
    """
    functions = _loaded.get((program.name, index))
    if functions is not None:
        return functions
    refuse_in_workers()
    cuda_device.refuse_capture(program.name)
    with _loading:
        if (program.name, index) not in _loaded:
            _loaded[program.name, index] = _load(program, index)
        return _loaded[program.name, index]


def _load(program: Program, index: int) -> dict[str, int]:
    access, driver = cuda_device.access, cuda_driver()
    nvrtc = find_nvrtc(access.cuda_major())
    architecture = target(access.capability(index), nvrtc)
    made = compiled(program, architecture, nvrtc)
    try:
        with access.guard(index):
            driver.enter(index)
            module = driver.load_module(made.code)
            return {
                kernel: driver.function(module, made.names[kernel]) for kernel in program.kernels
            }
    except DriverError as error:
        raise ConfigError(
            f"the driver does not load the CUDA kernels {program.name} for {architecture} "
            f"({error}); update it, or set {OPS.name}=torch"
        ) from None


def cuda_compiler() -> str:
    """The compiler of the kernels, in words.

    Raises:
        ConfigError: there is none.
    """
    nvrtc = find_nvrtc(cuda_device.access.cuda_major())
    return f"NVRTC {nvrtc.version[0]}.{nvrtc.version[1]}, {nvrtc.file}"


def launch(
    op: str, function: int, blocks: int, threads: int, parameters: tuple[Any, ...], index: int
) -> None:
    """Enqueue a kernel on the current stream of a device.

    Args:
        op: its name, for messages.
        parameters: ctypes objects; they are copied.

    Raises:
        RuntimeError: the kernel was not enqueued.
    """
    access, driver = cuda_device.access, cuda_driver()
    try:
        with access.guard(index):
            driver.enter(index)
            driver.launch(function, blocks, threads, parameters, access.stream(index))
    except DriverError as error:
        raise RuntimeError(
            f"{op}: the CUDA kernel could not run: {error} "
            f"({OPS.name}=torch runs without compiled kernels)"
        ) from None


def launch_over(
    op: str, function: int, count: int, parameters: tuple[Any, ...], index: int
) -> None:
    """``launch`` a kernel that goes through `count` elements."""
    blocks = min(-(-count // THREADS), _MOST_BLOCKS)
    launch(op, function, blocks, THREADS, parameters, index)


def long(value: int) -> ctypes.c_int64:
    """A parameter of 64 bits."""
    return ctypes.c_int64(value)
