"""The CUDA driver, bound by ctypes: modules, functions and launches in the context of torch.

These entry points of ``libcuda.so.1`` are called, and no others. ``SG3FLOW_CUDA_DRIVER`` names
another library with the same ones, for tests.

=========================  ======================================================================
cuGetErrorName             (CUresult, const char**)
cuGetErrorString           (CUresult, const char**)
cuDriverGetVersion         (int*)
cuCtxGetCurrent            (CUcontext*): once in each thread, before its first launch
cuDeviceGet                (CUdevice*, int): this and the next two in threads without a context
cuDevicePrimaryCtxRetain   (CUcontext*, CUdevice)
cuCtxSetCurrent            (CUcontext)
cuModuleLoadData           (CUmodule*, const void* image): a cubin, or PTX that ends with a 0 byte
cuModuleGetFunction        (CUfunction*, CUmodule, const char* name)
cuFuncGetAttribute         (int*, CUfunction_attribute, CUfunction): loads the function
cuFuncSetAttribute         (CUfunction, CUfunction_attribute, int): more than 48 KiB of dynamic
                           shared memory
cuLaunchKernel             (CUfunction, grid x y z, block x y z, dynamic shared bytes, CUstream,
                           void** parameters, void** extra = NULL)
=========================  ======================================================================

This module needs nothing but the standard library. It never synchronizes.
"""

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Any

from sg3flow.errors import ConfigError, cut
from sg3flow.settings import CUDA_DRIVER

_POINTER, _INT, _UINT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_OUT = ctypes.POINTER(_POINTER)
_PROTOTYPES: dict[str, tuple[object, ...]] = {
    "cuGetErrorName": (_INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (_INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuDriverGetVersion": (ctypes.POINTER(_INT),),
    "cuCtxGetCurrent": (_OUT,),
    "cuDeviceGet": (ctypes.POINTER(_INT), _INT),
    "cuDevicePrimaryCtxRetain": (_OUT, _INT),
    "cuCtxSetCurrent": (_POINTER,),
    "cuModuleLoadData": (_OUT, ctypes.c_char_p),
    "cuModuleGetFunction": (_OUT, _POINTER, ctypes.c_char_p),
    "cuFuncGetAttribute": (ctypes.POINTER(_INT), _INT, _POINTER),
    "cuFuncSetAttribute": (_POINTER, _INT, _INT),
    "cuLaunchKernel": (_POINTER, *(_UINT,) * 7, _POINTER, _POINTER, _POINTER),
}
_SHARED_BYTES, _MOST_DYNAMIC_SHARED_BYTES = 1, 8  # of enum CUfunction_attribute
_FREELY_USED_BYTES = 48 * 1024  # of shared memory: a kernel must ask for more


class DriverError(RuntimeError):
    """The driver refused a call; the message has its name for the error and its words."""


class Driver:
    """The bound library. Every function but ``version`` needs a context: enter a device first."""

    def __init__(self, name: str) -> None:
        try:
            self._library = ctypes.CDLL(name)
            for function, types in _PROTOTYPES.items():
                getattr(self._library, function).argtypes = types
        except (OSError, AttributeError) as error:
            raise ConfigError(
                f"the CUDA driver {cut(name, 200)} cannot be loaded ({cut(str(error), 200)}); "
                f"install NVIDIA's driver, or correct {CUDA_DRIVER.name}"
            ) from None
        self._launch = self._library.cuLaunchKernel
        self._threads = threading.local()

    def version(self) -> tuple[int, int]:
        """The newest CUDA release that the driver knows, as (major, minor)."""
        found = _INT()
        self._check("cuDriverGetVersion", ctypes.byref(found))
        return found.value // 1000, found.value % 1000 // 10

    def load_module(self, image: bytes) -> int:
        """Load a cubin or PTX into the current context; the module stays for good."""
        module = _POINTER()
        self._check("cuModuleLoadData", ctypes.byref(module), image)
        return module.value or 0

    def function(self, module: int, name: str, dynamic_bytes: int = 0) -> int:
        """A kernel of a module, loaded now: a first launch may be captured in a graph.

        Args:
            name: the lowered (mangled) name.
            dynamic_bytes: most dynamic shared memory of a launch.
        """
        function, static = _POINTER(), _INT()
        self._check("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        self._check("cuFuncGetAttribute", ctypes.byref(static), _SHARED_BYTES, function)
        if static.value + dynamic_bytes > _FREELY_USED_BYTES:
            self._check("cuFuncSetAttribute", function, _MOST_DYNAMIC_SHARED_BYTES, dynamic_bytes)
        return function.value or 0

    def enter(self, device: int) -> None:
        """Make a context current in a thread that has none: the primary one of ``device``.

        Threads of autograd may have none before their first allocation. One that torch has set
        stays.
        """
        if getattr(self._threads, "has_context", False):
            return
        context, handle = _POINTER(), _INT()
        self._check("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            self._check("cuDeviceGet", ctypes.byref(handle), device)
            self._check("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
            self._check("cuCtxSetCurrent", context)
        self._threads.has_context = True

    def launch(
        self,
        function: int,
        blocks: int,
        threads: int,
        parameters: Sequence[Any],
        stream: int,
        dynamic_bytes: int = 0,
    ) -> None:
        """Enqueue a kernel with one-dimensional grid and blocks; parameters are copied.

        Args:
            parameters: ctypes objects, laid out as the kernel's parameters.

        Raises:
            DriverError: the kernel was not enqueued.
        """
        places = (_POINTER * len(parameters))(*map(ctypes.addressof, parameters))
        code = self._launch(
            function, blocks, 1, 1, threads, 1, 1, dynamic_bytes, stream, places, None
        )
        if code:
            raise DriverError(self.words(code))

    def words(self, code: int) -> str:
        """The driver's name and description of an error."""
        texts = []
        for ask in (self._library.cuGetErrorName, self._library.cuGetErrorString):
            text = ctypes.c_char_p()
            if ask(code, ctypes.byref(text)) == 0 and text.value:
                texts.append(text.value.decode(errors="replace"))
        return ": ".join(texts) or f"error {code} of the CUDA driver"

    def _check(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise DriverError(f"{function}: {self.words(code)}")


@functools.cache
def _bound(name: str) -> Driver:
    return Driver(name)


def cuda_driver() -> Driver:
    """The driver that ``SG3FLOW_CUDA_DRIVER`` names, ``libcuda.so.1`` by default.

    Raises:
        ConfigError: it cannot be loaded.
    """
    return _bound(CUDA_DRIVER.text() or CUDA_DRIVER.default)
