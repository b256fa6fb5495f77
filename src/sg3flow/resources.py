"""CPUs and memory that this process may use, and the driver of its GPUs, seen without torch.

Containers and batch systems limit them.
"""

import errno
import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

_CGROUP = Path("/sys/fs/cgroup")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DEVICES = Path("/dev")
_NAMES_GPU = re.compile(r"\s*(\d|GPU-|MIG-)")  # a value of CUDA_VISIBLE_DEVICES


def available_cpus() -> int:
    """Number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_that_fit(asked: int) -> int:
    """As many of ``asked`` helper processes as this process has CPUs, at least one if any is asked.

    The processes of a training on this machine, which torchrun counts, share its CPUs.
    """
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    processes = int(count) if re.fullmatch("[1-9][0-9]{0,5}", count) else 1
    return min(asked, max(available_cpus() // processes, 1))


def free_memory() -> int:
    """Free memory in bytes: of the machine, or of the container if that has less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_limit()
    return free if limit is None else max(min(free, limit - _container_used()), 0)


def total_memory() -> int:
    """Total memory in bytes: of the machine, or of the container if that has less."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, _container_limit() or total)


def _container_limit() -> int | None:
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no container, or no limit ("max")
        return None


def _container_used() -> int:
    """Used memory in bytes without the inactive page cache, which the kernel can reclaim."""
    try:
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return used - int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True)
class NvidiaDriver:
    """The driver of the NVIDIA GPUs that this process may use.

    Attributes:
        version: like ``575.57.08``; empty: unknown.
        cuda: the newest CUDA that it supports, major and minor; None: unknown.
    """

    version: str
    cuda: tuple[int, int] | None


def nvidia_driver() -> NvidiaDriver | None:
    """The driver if this process may use an NVIDIA GPU, by NVML or by the driver's files."""
    count = call_nvml("nvmlDeviceGetCount")
    if count == 0 or (count is None and not _has_device_files()):
        return None
    version = call_nvml("nvmlSystemGetDriverVersion") or _version_in_file()
    cuda = call_nvml("nvmlSystemGetCudaDriverVersion")  # 12040: 12.4
    return NvidiaDriver(str(version), (cuda // 1000, cuda % 1000 // 10) if cuda else None)


def gpu_problem(torch_version: str, torch_cuda: str | None, reason: Callable[[], str]) -> str:
    """Why a torch that sees no GPU cannot use the NVIDIA GPU of this machine; empty: it has none.

    With CUDA_VISIBLE_DEVICES empty, -1 or another word that is no GPU, it counts as having none.

    Args:
        torch_cuda: the CUDA that torch is built for; None: none.
        reason: gives what torch says about the failure; it is asked only if nothing else explains.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and not _NAMES_GPU.match(chosen):
        return ""
    driver = nvidia_driver()
    if driver is None:
        return ""
    gpu = f"this machine has an NVIDIA GPU with driver {driver.version or 'of unknown version'}"
    limit = "" if driver.cuda is None else f" {driver.cuda[0]}.{driver.cuda[1]} or older"
    if torch_cuda is None:
        return (
            f"{gpu}, and torch {torch_version} is built without CUDA; install a torch for "
            f"CUDA{limit}"
        )
    torch_words = f"torch {torch_version} is built for CUDA {torch_cuda}"
    # A driver runs all minor versions of its CUDA, and older ones.
    if driver.cuda is not None and driver.cuda[0] < int(torch_cuda.partition(".")[0]):
        return (
            f"{gpu}, which is too old: it supports CUDA{limit}, and {torch_words}; update the "
            "driver, or install a torch for its CUDA"
        )
    if chosen is not None:
        return (
            f"{gpu}, and CUDA_VISIBLE_DEVICES={chosen[:40]} names none that torch can use "
            f"({torch_words}); correct it"
        )
    return (
        f"{gpu}, and torch cannot use it ({torch_words}; {reason()}); update the driver or "
        "restart the machine, or install a torch that fits the driver"
    )


def _has_device_files() -> bool:
    """Whether the driver is loaded and this process may open a GPU.

    NVML may be missing in a container, and fails if its version is not that of the loaded driver.
    """
    return _DRIVER_FILE.exists() and any(map(_may_open, _DEVICES.glob("nvidia[0-9]*")))


def _may_open(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        return error.errno != errno.EPERM  # a container or batch system gives no GPU
    return True


def _version_in_file() -> str:
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _DRIVER_FILE.read_text(errors="replace"))
    except OSError:
        return ""
    return found[0] if found else ""


def call_nvml(function: str, *arguments: Any) -> Any:
    """The result of a function of NVML; None: there is no library, or the call failed."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None


@functools.cache
def _nvml() -> ModuleType | None:
    """The bindings of NVML, initialized once; None: there is no driver."""
    try:
        import pynvml
    except ImportError:  # not installed on macOS, which has no driver
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    library: ModuleType = pynvml
    return library
