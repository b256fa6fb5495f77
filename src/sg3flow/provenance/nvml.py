"""NVIDIA's management library, as far as a training wants to know its GPUs.

Where there is no driver, no such GPU, or no answer, there is nothing to tell.
"""

import functools
from types import ModuleType
from typing import Any

_MEGABYTE = 1e6


def driver_version() -> str:
    """The driver's version; empty where there is none."""
    return str(_ask("nvmlSystemGetDriverVersion") or "")


def gpu_load(uuid: str) -> dict[str, float]:
    """Utilization (percent), memory (MB and percent), power (W) and temperature of one GPU.

    Args:
        uuid: as ``torch.cuda.get_device_properties`` gives it.
    """
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    device = _ask("nvmlDeviceGetHandleByUUID", name)
    if device is None:
        return {}
    found: dict[str, float] = {}
    if (use := _ask("nvmlDeviceGetUtilizationRates", device)) is not None:
        found["utilization_percentage"] = float(use.gpu)
    memory = _ask("nvmlDeviceGetMemoryInfo", device)
    if memory is not None and memory.total:
        found["memory_usage_megabytes"] = memory.used / _MEGABYTE
        found["memory_usage_percentage"] = 100 * memory.used / memory.total
    if (milliwatts := _ask("nvmlDeviceGetPowerUsage", device)) is not None:
        found["power_usage_watts"] = milliwatts / 1000
    if (degrees := _ask("nvmlDeviceGetTemperature", device, 0)) is not None:  # 0: of the chip
        found["temperature_celsius"] = float(degrees)
    return found


def _ask(function: str, *arguments: Any) -> Any:
    """What a function of the library answers; None: there is no library, or it refuses."""
    nvml = _library()
    if nvml is None:
        return None
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError:
        return None


@functools.cache
def _library() -> ModuleType | None:
    """The library's bindings, initialized once; None: there is no driver."""
    try:
        import pynvml
    except ImportError:  # not installed on macOS, for which there is no driver
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    library: ModuleType = pynvml
    return library
