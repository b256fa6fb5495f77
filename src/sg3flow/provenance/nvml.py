"""NVIDIA's management library, as far as a training wants to know its GPUs.

Through ctypes: the library comes with the driver, and no package is needed. Where it is missing or
refuses, there is nothing to tell.
"""

import ctypes
import functools
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_MEGABYTE = 1e6


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def driver_version() -> str:
    """The driver's version; empty where there is none."""
    text = ctypes.create_string_buffer(96)
    return text.value.decode() if _ask("nvmlSystemGetDriverVersion", text, 96) else ""


def gpu_load(uuid: str) -> dict[str, float]:
    """Utilisation (percent), memory (MB and percent), power (W) and temperature of one GPU.

    Args:
        uuid: as ``torch.cuda.get_device_properties`` gives it.
    """
    device = ctypes.c_void_p()
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    if not _ask("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(device)):
        return {}
    found: dict[str, float] = {}
    use, memory = _Utilization(), _Memory()
    power, degrees = ctypes.c_uint(), ctypes.c_uint()
    if _ask("nvmlDeviceGetUtilizationRates", device, ctypes.byref(use)):
        found["utilization_percentage"] = float(use.gpu)
    if _ask("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory)) and memory.total:
        found["memory_usage_megabytes"] = memory.used / _MEGABYTE
        found["memory_usage_percentage"] = 100 * memory.used / memory.total
    if _ask("nvmlDeviceGetPowerUsage", device, ctypes.byref(power)):
        found["power_usage_watts"] = power.value / 1000
    if _ask("nvmlDeviceGetTemperature", device, ctypes.c_int(0), ctypes.byref(degrees)):
        found["temperature_celsius"] = float(degrees.value)
    return found


def _ask(function: str, *arguments: Any) -> bool:
    """Call a function of the library; whether it answered."""
    library = _library(_LIBRARY)
    call = getattr(library, function, None) if library is not None else None
    return call is not None and call(*arguments) == 0


@functools.cache
def _library(name: str) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(name)
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None
