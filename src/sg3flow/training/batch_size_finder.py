"""Memory of a training: its use, advice when it runs out, and ``batch_gpu: auto``.

Run as a program, it measures the memory of one step; the batch-size finder starts it so.
"""

import contextlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from sg3flow.config import TrainConfig
from sg3flow.device import flushed_denormals, open_device
from sg3flow.errors import Sg3flowError, TrainingInterruptedError, TrainingMemoryError
from sg3flow.files import write_json
from sg3flow.precision import computing
from sg3flow.resources import free_memory, total_memory
from sg3flow.training.assembly import build, precision_of
from sg3flow.training.step import RealBatch, run_step
from sg3flow.training.work_folder import RunFolder

_GIB = 2**30
_LOW = 0.05  # share of the host's memory below which the system may soon kill processes
# Texts of the RuntimeErrors that torch raises when its host allocator, or a GPU library that
# allocates memory itself, runs out of memory.
_NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)


@dataclass(frozen=True)
class MemorySettings:
    """The settings of ``TrainConfig`` that decide how much memory a training needs."""

    gpus: int
    batch: int
    batch_gpu: int
    mbstd_group: int
    cbase: int
    cmax: int
    fp32: bool
    workers: int


def memory_stats(device: torch.device) -> dict[str, float]:
    """Memory of the process in GiB and, on a GPU, the peaks of the device since the last call."""
    rss = psutil.Process().memory_info().rss
    stats = {
        "Resources/cpu_mem_gb": rss / _GIB,
        # The kernel updates the peak only now and then, so it may be below rss.
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
    """Peak host memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_warning(settings: MemorySettings, device: torch.device, folder: RunFolder) -> bool:
    """Warn of low host memory: when it runs out, the system kills the process without a message."""
    free, total = free_memory(), total_memory()
    is_low = free < _LOW * total
    if is_low:
        # The networks of a GPU training take little host memory.
        remedy = _less_host_memory(settings.workers) if device.type == "cuda" else None
        print(
            f"warning: {free / _GIB:.1f} of {total / _GIB:.1f} GiB of memory are left; if the "
            f"system kills the training, {remedy or advice(settings, device, folder)}",
            file=sys.stderr,
        )
    return is_low


def _less_host_memory(workers: int) -> str:
    if workers == 0:
        return "end other programs and run the same command: it resumes"
    return f"run it with fewer --workers (now {workers}): it resumes"


@contextlib.contextmanager
def out_of_memory_advice(
    settings: MemorySettings, device: torch.device, folder: RunFolder | None
) -> Iterator[None]:
    """Turn an out-of-memory error of the block into one with advice.

    Args:
        folder: of the training; None: this is not the main process.

    Raises:
        TrainingMemoryError: in place of torch's error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split()).split(" See ")[0][:200]
        raise TrainingMemoryError(
            f"a forward pass of {settings.batch_gpu} images does not fit into the memory of "
            f"{device.type} ({reason}{_used_by_others(device)}); {advice(settings, device, folder)}"
        ) from error


_MUCH = 0.1  # share of a GPU's memory


def _used_by_others(device: torch.device) -> str:
    """How much of a GPU's memory other programs use, if it is much."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    if others < _MUCH * total:
        return ""
    return (
        f"; other programs use {others / _GIB:.1f} of its {total / _GIB:.1f} GiB, `nvidia-smi` "
        "shows which"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def advice(settings: MemorySettings, device: torch.device, folder: RunFolder | None) -> str:
    """The setting to lower: the one that changes results least.

    All of them change the result: the minibatch standard deviation compares the images of a pass.
    """
    per_process, group = settings.batch // settings.gpus, settings.mbstd_group
    smaller = [n for n in range(group, settings.batch_gpu, group) if per_process % n == 0]
    if smaller:
        last = folder.last_snapshot() if folder is not None else None
        resume = f"; --resume {last} takes over its networks" if last else ""
        return (
            f"run it with --batch-gpu {smaller[-1]} (or auto): that is another training, which "
            f"starts from zero{resume}"
        )
    precision = "" if device.type == "cpu" or not settings.fp32 else "without --fp32, or "
    return (
        f"run it {precision}with a smaller --cbase (now {settings.cbase}) or --cmax (now "
        f"{settings.cmax}), or pack images of half the resolution"
    )


# Shares of the free memory that a step may take: fragmentation and snapshots need memory too.
_GPU_SHARE, _HOST_SHARE = 0.92, 0.75


def batch_gpu_candidates(batch: int, gpus: int, mbstd_group: int) -> list[int]:
    """The values that ``batch_gpu`` may have, in ascending order."""
    per_process = batch // gpus
    return [n for n in range(mbstd_group, per_process + 1, mbstd_group) if per_process % n == 0]


def cached_batch_gpu(
    sizes: Sequence[int], trial: Callable[[int], int | None], device: torch.device, memo: Path
) -> int:
    """The largest of ``sizes`` that fits, read from ``memo`` or else measured and written there.

    It is one of the settings that decide the numbers, so a resumed training must use the same.

    Args:
        sizes: candidates in ascending order.
        trial: see ``largest_fitting_batch``.
    """
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))["batch_gpu"]
        return int(known)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = sizes[0]
    if len(sizes) > 1:
        print(f"finding the largest batch_gpu that fits, of {', '.join(map(str, sizes))}")
        found = largest_fitting_batch(sizes, trial, _room(device), device.type == "cuda")
    print(f"batch_gpu {found}")
    write_json(memo, {"batch_gpu": found})
    return found


def largest_fitting_batch(
    sizes: Sequence[int], trial: Callable[[int], int | None], room: float, check: bool
) -> int:
    """The largest of ascending ``sizes`` whose step fits.

    The memory of a step grows linearly with its images, so the two smallest sizes predict it.

    Args:
        trial: measures the bytes of a step with a number of images; None if it does not fit.
        room: available bytes.
        check: also measure the predicted size, and smaller ones until one fits.

    Raises:
        TrainingMemoryError: the smallest size does not fit.
    """
    first = trial(sizes[0])
    if first is None or first > room:
        raise TrainingMemoryError(
            f"a forward pass of {sizes[0]} images, the smallest, does not fit into "
            f"{room / _GIB:.1f} GiB; lower cbase, cmax or the resolution of the packed set"
        )
    second = trial(sizes[1])
    if second is None or second > room:
        return sizes[0]
    each = max(second - first, 0) / (sizes[1] - sizes[0])
    fitting = [n for n in sizes if second + each * (n - sizes[1]) <= room]
    while check and fitting[-1] > sizes[1]:
        taken = trial(fitting[-1])
        if taken is not None and taken <= room:
            break
        fitting.pop()
    return fitting[-1]


def _room(device: torch.device) -> float:
    if device.type == "cuda":
        return _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    return _HOST_SHARE * free_memory()


def step_trial(settings: Mapping[str, Any], form: Mapping[str, Any]) -> Callable[[int], int | None]:
    """A function for ``largest_fitting_batch`` that runs one step in a separate process.

    Args:
        settings: all fields of a resolved ``TrainConfig``; that process builds it again.
        form: the keyword arguments of ``build`` but for the device.
    """

    def trial(size: int) -> int | None:
        small = {**settings, "gpus": 1, "batch": size, "batch_gpu": size}
        content = json.dumps({"config": small, **form})
        command = [sys.executable, "-m", "sg3flow.training.batch_size_finder", content]
        done = subprocess.run(command, capture_output=True, text=True)
        return _taken(size, done)

    return trial


def _taken(size: int, done: "subprocess.CompletedProcess[str]") -> int | None:
    """The result of a trial; one that was killed by the system took too much memory: None.

    Raises:
        TrainingInterruptedError: the user stopped it, which says nothing about sizes.
        Sg3flowError: it failed for another reason, which says nothing about sizes either.
    """
    if -done.returncode in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        raise TrainingInterruptedError(
            "stopped while measuring batch_gpu; the same command measures it again"
        )
    if done.returncode < 0:
        return None
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Sg3flowError(
            f"--batch-gpu auto: a trial step of {size} images failed ({last[:300]}); fix the "
            "cause, or set --batch-gpu to a number"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return int(found) if found is not None else None


def _measure(config: TrainConfig, form: dict[str, Any]) -> int | None:
    """Peak memory of one step in bytes; None if it does not fit."""
    device = open_device(config.device)
    channels, side = form["channels"], form["resolution"]
    try:
        parts = build(config, device=device, **form)
        img = torch.zeros([config.batch, channels, side, side], device=device)
        c = torch.zeros([config.batch, form["c_dim"]], device=device)

        def draw(phase: str) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.randn([config.batch, parts.G.z_dim], device=device), c

        with flushed_denormals(), computing(precision_of(config)):
            run_step(parts, RealBatch(img, c), draw, 0, config.batch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_rss()


def _main() -> None:
    content: dict[str, Any] = json.loads(sys.argv[1])
    config = TrainConfig(**content.pop("config"))
    print(json.dumps(_measure(config, content)))


if __name__ == "__main__":
    _main()
