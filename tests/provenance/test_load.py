"""The load of this machine, and of GPUs that a stand-in for the NVML library reports."""

import errno
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

from sg3flow import resources
from sg3flow.device import pick_device
from sg3flow.errors import ConfigError
from sg3flow.runs import machine
from sg3flow.runs.machine import SystemMonitor

LIBRARY = r"""
#include <stdlib.h>
#include <string.h>
static int device;
int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = atoi(getenv("TEST_GPUS"));
  return 0;
}
int nvmlSystemGetCudaDriverVersion(int *version) {
  *version = atoi(getenv("TEST_DRIVER_CUDA"));
  return 0;
}
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  strncpy(text, "575.57.08", length);
  return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  *handle = &device;
  return strcmp(uuid, "GPU-1111") && strcmp(uuid, "MIG-3333") ? 6 : 0;
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
found = [machine.gpu_load(uuid) for uuid in ("2222", "1111", "3333", "MIG-3333")]
found.append(use.mean if use else None)
print(json.dumps([machine.driver_version(), *found]))
"""


def ask(folder: Path) -> list:
    """What a process reports of its GPUs that loads the driver's library from ``folder``."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory) -> Path:
    """A folder with a library of the driver, as NVML's bindings load it."""
    pytest.importorskip("pynvml")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source, library = folder / "nvml.c", folder / "libnvidia-ml.so.1"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


@pytest.mark.medium
def test_gpus_through_the_management_library(stand_in):
    known = {
        "utilization_percentage": 93.0,
        "memory_usage_megabytes": 2000.0,
        "memory_usage_percentage": 25.0,
        "power_usage_watts": 251.5,
    }
    # torch gives the UUID of a MIG slice without its first letters
    assert ask(stand_in) == ["575.57.08", {}, known, known, known, 93.0]


@pytest.mark.medium
def test_without_a_driver_nothing_is_reported(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    assert ask(tmp_path) == ["", {}, {}, {}, {}, None]


PICK = """
import json, os, sys, torch
from sg3flow.device import pick_device
from sg3flow.errors import ConfigError
for built, gpus, cuda, visible, name in json.loads(sys.argv[1]):
    torch.version.cuda = built
    os.environ |= {"TEST_GPUS": str(gpus), "TEST_DRIVER_CUDA": str(cuda)}
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    try:
        print(pick_device(name))
    except ConfigError as error:
        print(error)
"""
GPU = "this machine has an NVIDIA GPU with driver 575.57.08"
ON_CPU = "device cpu (--device cpu, SG3FLOW_DEVICE=cpu for serving) goes on without the GPU"


@pytest.mark.medium
@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use a GPU")
def test_a_gpu_that_torch_cannot_use_is_an_error_with_both_versions(stand_in):
    ours = f"torch {torch.__version__}"
    old = (
        f"{GPU}, which is too old: it supports CUDA 11.4 or older, and {ours} is built for "
        f"CUDA 13.0; update the driver, or install a torch for its CUDA; {ON_CPU}"
    )
    cpu_build = (
        f"{GPU}, and {ours} is built without CUDA; install a torch for CUDA 12.9 or older; {ON_CPU}"
    )
    hidden = (
        f"{GPU}, and CUDA_VISIBLE_DEVICES=7 names none that torch can use ({ours} is built "
        f"for CUDA 12.6); correct it; {ON_CPU}"
    )
    cases = [
        # built for, GPUs, CUDA of the driver, CUDA_VISIBLE_DEVICES, device -> outcome
        (("13.0", 1, 11040, None, "auto"), old),
        (("13.0", 1, 11040, None, "cuda"), old),
        (("13.0", 1, 11040, None, "cpu"), "cpu"),
        ((None, 1, 12090, None, "auto"), cpu_build),
        ((None, 0, 12090, None, "auto"), "cpu"),  # the driver alone, as on a login node
        (("13.0", 1, 11040, "", "auto"), "cpu"),
        (("13.0", 1, 11040, "-1", "auto"), "cpu"),
        (("13.0", 1, 11040, "NoDevFiles", "auto"), "cpu"),
        (("12.6", 1, 12000, "7", "auto"), hidden),
    ]
    asked = json.dumps([case for case, _ in cases])
    environment = os.environ | {"LD_LIBRARY_PATH": str(stand_in)}
    command = [sys.executable, "-c", PICK, asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [outcome for _, outcome in cases]


@pytest.fixture
def driver_files(tmp_path, monkeypatch):
    """The files of a driver whose library does not load: `driver_files(text, GPUs)`."""
    monkeypatch.setattr(resources, "_nvml", lambda: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def make(text: str, gpus: int) -> None:
        monkeypatch.setattr(resources, "_DRIVER_FILE", tmp_path / "version")
        monkeypatch.setattr(resources, "_DEVICES", tmp_path)
        (tmp_path / "nvidiactl").touch()
        (tmp_path / "version").write_text(text)
        for index in range(gpus):
            (tmp_path / f"nvidia{index}").touch()

    return make


PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"
    "GCC version:  gcc version 9.3.0 (Ubuntu 9.3.0-17ubuntu1~20.04)\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n"


@pytest.mark.parametrize(("text", "version"), [(PROPRIETARY, "470.57.02"), (OPEN, "575.57.08")])
def test_the_files_of_a_driver_suffice(driver_files, text, version):
    driver_files(text, gpus=1)
    with pytest.raises(ConfigError, match=f"an NVIDIA GPU with driver {version}, and torch"):
        pick_device("auto")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_driver_without_a_gpu_for_this_process_is_none(driver_files, monkeypatch):
    driver_files(PROPRIETARY, gpus=0)
    assert pick_device("auto") == torch.device("cpu")
    driver_files(PROPRIETARY, gpus=1)

    def forbidden(path, flags):  # as a container or batch system answers
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(resources.os, "open", forbidden)
    assert pick_device("auto") == torch.device("cpu")


def test_a_card_that_is_too_old_for_torch_is_named(monkeypatch):
    known = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda index: None,
        "get_arch_list": lambda: ["sm_75", "sm_90a", "sm_120", "compute_120"],
        "get_device_name": lambda index: "GTX 1080",
    }
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for capability, usable in (((6, 1), False), ((7, 0), False), ((7, 5), True), ((12, 1), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, c=capability: c)
        if usable:
            assert pick_device("auto") == torch.device("cuda", 0)
            continue
        said = rf"GTX 1080 has compute capability {capability[0]}\.{capability[1]}, .* needs 7\.5"
        with pytest.raises(ConfigError, match=said):
            pick_device("auto")
