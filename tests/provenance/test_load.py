"""The load of this machine, and of GPUs that a stand-in for the NVML library reports."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from sg3flow.runs import machine
from sg3flow.runs.machine import SystemMonitor

LIBRARY = r"""
#include <string.h>
static int device;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  strncpy(text, "575.57.08", length);
  return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  *handle = &device;
  return strcmp(uuid, "GPU-1111") ? 6 : 0;
}
int nvmlDeviceGetUtilizationRates(void *handle, unsigned *rates) {
  rates[0] = 93;
  rates[1] = 40;
  return handle != &device;
}
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *sizes) {
  sizes[0] = 8000000000ull;
  sizes[1] = 6000000000ull;
  sizes[2] = 2000000000ull;
  return handle != &device;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *power) { *power = 251500; return 0; }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *degrees) { return 3; }
"""


def test_load_of_this_machine(tmp_path):
    monitor = SystemMonitor(tmp_path, torch.device("cpu"))
    time.sleep(0.05)
    stats = monitor.read()
    memory = psutil.virtual_memory()
    assert 0 <= stats["system/cpu_utilization_percentage"].mean <= 100
    used = stats["system/system_memory_usage_megabytes"]
    assert used.num == 1 and used.std == 0 and 0 < used.mean * 1e6 < memory.total
    assert 0 < stats["system/disk_usage_percentage"].mean <= 100
    assert stats["system/network_receive_megabytes"].mean >= 0
    assert not [name for name in stats if "gpu" in name]


def test_a_thread_samples_and_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_PERIOD_SEC", 0.01)
    monkeypatch.setattr(machine, "_SHORT_SEC", 3600)
    monitor = SystemMonitor(tmp_path, torch.device("cpu"))
    before = torch.get_rng_state()
    with monitor.sampling():
        deadline = time.monotonic() + 30
        while len(monitor._samples) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert monitor.read()["system/system_memory_usage_percentage"].num >= 3
    assert torch.equal(before, torch.get_rng_state())
    shutil.rmtree(tmp_path)  # what cannot be read is left out, without an error
    assert monitor.read() == {}


ASK = """
import json, pathlib, torch
from sg3flow.runs import machine
machine._gpu_uuids = lambda: ["1111"]
stats = machine.SystemMonitor(pathlib.Path("."), torch.device("cuda")).read()
use = stats.get("system/gpu_0_utilization_percentage")
found = [machine.gpu_load("2222"), machine.gpu_load("1111"), use.mean if use else None]
print(json.dumps([machine.driver_version(), *found]))
"""


def ask(folder: Path) -> list:
    """What a process reports of its GPUs that loads the driver's library from ``folder``."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.medium
def test_gpus_through_the_management_library(tmp_path):
    pytest.importorskip("pynvml")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml.so.1"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    known = {
        "utilization_percentage": 93.0,
        "memory_usage_megabytes": 2000.0,
        "memory_usage_percentage": 25.0,
        "power_usage_watts": 251.5,
    }
    assert ask(tmp_path) == ["575.57.08", {}, known, 93.0]


def test_without_a_driver_nothing_is_reported(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    assert ask(tmp_path) == ["", {}, {}, None]
