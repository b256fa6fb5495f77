"""What the CUDA ops ask of torch about GPUs, in one place that a test can replace.

Everything else of the ops, from their checks to the calls of the driver, runs on any tensors.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch


class DeviceAccess(Protocol):
    """Devices are given by their index."""

    def cuda_major(self) -> int | None:
        """The CUDA release that torch was built for."""
        ...

    def current(self) -> int:
        """The current device."""
        ...

    def capability(self, index: int) -> tuple[int, int]:
        """Compute capability, (major, minor)."""
        ...

    def guard(self, index: int) -> AbstractContextManager[object]:
        """Makes a device current."""
        ...

    def stream(self, index: int) -> int:
        """The handle of the current stream of a device."""
        ...

    def is_capturing(self) -> bool:
        """Whether the current stream is captured in a CUDA graph."""
        ...


class TorchDevices:
    """The devices of torch."""

    def __init__(self) -> None:
        # What torch's own generated code calls: a tenth of the time of the public function.
        self._raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
        self._nothing = nullcontext()

    def cuda_major(self) -> int | None:
        version = torch.version.cuda
        return int(version.split(".")[0]) if version else None

    def current(self) -> int:
        return torch.cuda.current_device()

    def capability(self, index: int) -> tuple[int, int]:
        return torch.cuda.get_device_capability(index)

    def guard(self, index: int) -> AbstractContextManager[object]:
        if torch.cuda.current_device() == index:
            return self._nothing
        return torch.cuda.device(index)

    def stream(self, index: int) -> int:
        if self._raw_stream is not None:
            return int(self._raw_stream(index))
        return int(torch.cuda.current_stream(index).cuda_stream)

    def is_capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()


access: DeviceAccess = TorchDevices()


def refuse_capture(what: str) -> None:
    """Raise RuntimeError while a CUDA graph is captured: loading takes memory, checking waits."""
    if access.is_capturing():
        raise RuntimeError(
            f"CUDA kernels are used for the first time while a CUDA graph is captured ({what}); "
            "run the same ops once before the capture (a warm-up)"
        )


def index_of(x: torch.Tensor) -> int:
    """The index of a tensor's device."""
    return x.device.index or 0
