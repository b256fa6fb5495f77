"""Memory of a training: what it takes, and what to do when there is not enough."""

import contextlib
import resource
import sys
from collections.abc import Iterator

import psutil
import torch

from sg3flow.config import TrainConfig
from sg3flow.errors import OutOfMemory
from sg3flow.limits import free_memory, total_memory
from sg3flow.training.folder import RunFolder

_GIB = 2**30
_LOW = 0.05  # share of the host's memory below which the system may soon end processes
# What torch says in a plain RuntimeError when memory ran out: its allocator of the host, and
# libraries of the GPU that allocate for themselves.
_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)


def memory_stats(device: torch.device) -> dict[str, float]:
    """GiB of the host and, on a GPU, the peaks of the device since the last call."""
    rss = psutil.Process().memory_info().rss
    stats = {
        "Resources/cpu_mem_gb": rss / _GIB,
        # the kernel counts the peak now and then only: it may lag behind
        "Resources/peak_cpu_mem_gb": max(rss, peak_rss()) / _GIB,
    }
    if device.type == "cuda":
        allocated = torch.cuda.max_memory_allocated(device)
        reserved = torch.cuda.max_memory_reserved(device)
        stats["Resources/peak_gpu_mem_gb"] = allocated / _GIB
        stats["Resources/peak_gpu_mem_reserved_gb"] = reserved / _GIB
        torch.cuda.reset_peak_memory_stats(device)
    return stats


def peak_rss() -> int:
    """Most bytes of the host's memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_warning(config: TrainConfig, device: torch.device, folder: RunFolder) -> bool:
    """Warn while there is time: the system ends a process that takes too much without a word."""
    free, total = free_memory(), total_memory()
    is_low = free < _LOW * total
    if is_low:
        # On a GPU the networks and their steps are not what fills the host.
        remedy = _less_host_memory(config) if device.type == "cuda" else None
        print(
            f"warning: {free / _GIB:.1f} of {total / _GIB:.1f} GiB of memory are left; should the "
            f"training be killed, {remedy or advice(config, device, folder)}",
            file=sys.stderr,
        )
    return is_low


def _less_host_memory(config: TrainConfig) -> str:
    if config.workers == 0:
        return "end other programs and run the same command: it goes on"
    return f"run it with fewer --workers (now {config.workers}): it goes on"


@contextlib.contextmanager
def out_of_memory_advice(
    config: TrainConfig, device: torch.device, folder: RunFolder | None
) -> Iterator[None]:
    """Say what to do when the block runs out of memory.

    Args:
        folder: of the training; None: the first process has it.

    Raises:
        OutOfMemory: in place of torch's error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()).split(" See ")[0][:200]
        raise OutOfMemory(
            f"a step of {config.batch_gpu} images a pass does not fit into the memory of "
            f"{device.type} ({reason}); {advice(config, device, folder)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def advice(config: TrainConfig, device: torch.device, folder: RunFolder | None) -> str:
    """Which setting to lower, the one that changes results least first.

    None of them keeps the result: the discriminator compares the pictures of a pass.
    """
    smaller = [
        n
        for n in range(config.mbstd_group, config.batch_gpu, config.mbstd_group)
        if config.batch // config.gpus % n == 0
    ]
    if smaller:
        last = folder.last_snapshot() if folder is not None else None
        resume = f", with --resume {last} it takes over the networks of this one" if last else ""
        return (
            f"run it with --batch-gpu {smaller[-1]} (or auto): that is another training, which "
            f"starts anew{resume}"
        )
    precision = "" if device.type == "cpu" or not config.fp32 else "without --fp32, or "
    return (
        f"run it {precision}with a smaller --cbase (now {config.cbase}) or --cmax (now "
        f"{config.cmax}), or pack pictures of half the resolution"
    )
