"""The machine: processor, memory, GPUs, and what torch makes of them."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from sg3flow.limits import available_cpus
from sg3flow.ops.backend import backend_name
from sg3flow.provenance.nvml import driver_version

_GIB = 2**30

# Variables that change what is computed, or with how many threads. Never the whole environment: it
# holds passwords.
DECIDING_VARIABLES = frozenset(
    {
        "SG3FLOW_OPS",
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


def machine_facts() -> dict[str, Any]:
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


def compute_facts(device: torch.device) -> dict[str, Any]:
    """What decides the last bits of a result: versions, instruction sets, threads, the ops used."""
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
    """The implementation of the ops on ``device``; of compiled CPU kernels, for which processor."""
    name = backend_name(device)
    if name != "cpu":
        return name
    return f"cpu ({torch.ops.sg3flow.cpu_instruction_set()})"


def deciding_variables() -> dict[str, str]:
    """Those environment variables that are set and change what is computed."""
    return {name: os.environ[name] for name in sorted(DECIDING_VARIABLES) if name in os.environ}


def cpu_model() -> str:
    """The processor's name."""
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
