"""The machine: processor, memory, GPUs, the versions that decide a result, and the load."""

import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from sg3flow.ops.backend import backend_name
from sg3flow.resources import available_cpus, call_nvml
from sg3flow.runs.run_folder import Stat
from sg3flow.settings import OPS, TENSOR_CORES

_GIB = 2**30
_MEGABYTE = 1e6
_PERIOD_SEC = 5.0
_SHORT_SEC = 1.0  # the use of the processor over less time means little

# Variables that change the numbers or the number of threads. Never record the whole environment: it
# has passwords.
DECIDING_VARIABLES = frozenset(
    {
        OPS.name,
        TENSOR_CORES.name,
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "MKL_CBWR",
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        "CUBLAS_WORKSPACE_CONFIG",
        "NVIDIA_TF32_OVERRIDE",
        "PYTORCH_CUDA_ALLOC_CONF",
        "CUDA_VISIBLE_DEVICES",
    }
)


def machine_info() -> dict[str, Any]:
    """Operating system, processor, memory, GPUs."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "logical_cores": psutil.cpu_count() or 1,
        "usable_cores": available_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "driver": driver_version(),
    }


def compute_info(device: torch.device) -> dict[str, Any]:
    """What decides the last bits of a result: versions, instruction set, threads, ops."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": _cudnn_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        "ops": ops_used(device),
    }


def _cudnn_version() -> str:
    if not torch.cuda.is_available():
        return ""
    return str(torch.backends.cudnn.version() or "")  # type: ignore[no-untyped-call]


def ops_used(device: torch.device) -> str:
    """The implementation of the ops on ``device``; for CPU kernels with the instruction set."""
    name = backend_name(device)
    if name != "cpu":
        return name
    return f"cpu ({torch.ops.sg3flow.cpu_instruction_set()})"


def deciding_variables() -> dict[str, str]:
    """The environment variables that are set and change the numbers."""
    return {name: os.environ[name] for name in sorted(DECIDING_VARIABLES) if name in os.environ}


def cpu_model() -> str:
    """The name of the processor."""
    if sys.platform == "linux":
        for line in _lines(Path("/proc/cpuinfo")):
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "cpu model", "hardware"):
                return value.strip()
    return platform.processor() or platform.machine()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _gpu(index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "memory_gib": round(found.total_memory / _GIB, 1),
        "capability": f"{found.major}.{found.minor}",
    }


def driver_version() -> str:
    """The version of the GPU driver; empty: there is none."""
    return str(call_nvml("nvmlSystemGetDriverVersion") or "")


def gpu_load(uuid: str) -> dict[str, float]:
    """Utilization (percent), memory (MB and percent), power (W) and temperature of one GPU.

    Args:
        uuid: as ``torch.cuda.get_device_properties`` gives it: without saying whether it is that of
            a GPU or of a MIG slice.
    """
    names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    handles = (call_nvml("nvmlDeviceGetHandleByUUID", name) for name in names)
    device = next((handle for handle in handles if handle is not None), None)
    if device is None:
        return {}
    found: dict[str, float] = {}
    if (use := call_nvml("nvmlDeviceGetUtilizationRates", device)) is not None:
        found["utilization_percentage"] = float(use.gpu)
    memory = call_nvml("nvmlDeviceGetMemoryInfo", device)
    if memory is not None and memory.total:
        found["memory_usage_megabytes"] = memory.used / _MEGABYTE
        found["memory_usage_percentage"] = 100 * memory.used / memory.total
    if (milliwatts := call_nvml("nvmlDeviceGetPowerUsage", device)) is not None:
        found["power_usage_watts"] = milliwatts / 1000
    if (degrees := call_nvml("nvmlDeviceGetTemperature", device, 0)) is not None:  # 0: of the chip
        found["temperature_celsius"] = float(degrees)
    return found


class SystemMonitor:
    """Samples the load of the machine in a thread; gives mean and deviation since the last read.

    It draws no random numbers and does not synchronize, so it does not change a training.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._gpus = _gpu_uuids() if device.type == "cuda" else []
        self._samples: list[dict[str, float]] = []
        self._lock = threading.Lock()
        self._sampled = 0.0
        self._received, self._sent = _network_bytes()
        self._cpu_times = _cpu_seconds()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample every few seconds while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._sample_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def read(self) -> dict[str, Stat]:
        """Statistics since the last call, over one sample at least."""
        if not self._samples or time.monotonic() - self._sampled > _SHORT_SEC:
            self._sample()
        with self._lock:
            samples, self._samples = self._samples, []
        names = sorted({name for sample in samples for name in sample})
        return {name: _stat([s[name] for s in samples if name in s]) for name in names}

    def _sample_until(self, ended: threading.Event) -> None:
        while not ended.wait(_PERIOD_SEC):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            try:
                found = self._measure()
            except (OSError, psutil.Error):  # a missing sample must not stop the training
                return
            self._samples.append({f"system/{name}": value for name, value in found.items()})
            self._sampled = time.monotonic()

    def _measure(self) -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._folder)
        received, sent = _network_bytes()
        found = {
            "cpu_utilization_percentage": self._cpu_percent(),
            "system_memory_usage_megabytes": memory.used / _MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": 100 * disk.used / disk.total,
            "disk_available_megabytes": disk.free / _MEGABYTE,
            "network_receive_megabytes": (received - self._received) / _MEGABYTE,
            "network_transmit_megabytes": (sent - self._sent) / _MEGABYTE,
        }
        for index, uuid in enumerate(self._gpus):
            found |= {f"gpu_{index}_{name}": value for name, value in gpu_load(uuid).items()}
        return found

    def _cpu_percent(self) -> float:
        """Of all processors since the last sample; psutil's function has a clock per thread."""
        (busy, total), self._cpu_times = self._cpu_times, _cpu_seconds()
        passed = self._cpu_times[1] - total
        return 100 * (self._cpu_times[0] - busy) / passed if passed > 0 else 0.0


def _cpu_seconds() -> tuple[float, float]:
    """Busy seconds and all seconds of all processors since the machine started."""
    times = psutil.cpu_times()._asdict()
    # On Linux the time of a guest is part of the user time.
    total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return total - times["idle"] - times.get("iowait", 0.0), total


def _network_bytes() -> tuple[int, int]:
    try:
        counters = psutil.net_io_counters()
    except OSError:  # a container without /proc/net
        counters = None
    return (counters.bytes_recv, counters.bytes_sent) if counters else (0, 0)


def _gpu_uuids() -> list[str]:
    count = torch.cuda.device_count()
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]


def _stat(values: list[float]) -> Stat:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return Stat(len(values), mean, variance**0.5)
