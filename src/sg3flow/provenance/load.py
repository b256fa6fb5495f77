"""How busy the machine is while a training runs: processor, memory, disk, network, GPUs.

The numbers go into the run's statistics, under the names that MLflow shows as system metrics.
"""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from sg3flow.provenance.nvml import gpu_load
from sg3flow.reporting import Stat

_PERIOD_SEC = 5.0
_SHORT_SEC = 1.0  # a share of the processor over less says little
_MEGABYTE = 1e6


class LoadSampler:
    """Samples the machine's load from a thread, and gives mean and deviation since the last look.

    It draws no random number and waits for nothing: a training computes the same with or without.
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
                found = self._look()
            except (OSError, psutil.Error):  # nothing here is worth an interruption
                return
            self._samples.append({f"system/{name}": value for name, value in found.items()})
            self._sampled = time.monotonic()

    def _look(self) -> dict[str, float]:
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
        """Of all processors since the last sample; psutil's own keeps a clock for each thread."""
        (busy, total), self._cpu_times = self._cpu_times, _cpu_seconds()
        passed = self._cpu_times[1] - total
        return 100 * (self._cpu_times[0] - busy) / passed if passed > 0 else 0.0


def _cpu_seconds() -> tuple[float, float]:
    """Busy seconds and all seconds of all processors since the machine started."""
    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's time in the user's too.
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
