"""Memory of a training: what it takes, and what to do when there is not enough."""

import contextlib
import dataclasses
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.config import TrainConfig
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import Sg3flowError, TrainingInterruptedError, TrainingMemoryError
from sg3flow.files import write_json
from sg3flow.resources import flushed_denormals, free_memory, pick_device, total_memory
from sg3flow.training.assembly import build
from sg3flow.training.step import RealBatch, run_step
from sg3flow.training.transfer import architecture_of
from sg3flow.training.work_folder import RunFolder

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
        raise TrainingMemoryError(
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


# Of the memory that is free: fragments and the peaks of snapshots need some too.
_GPU_SHARE, _HOST_SHARE = 0.92, 0.75


def cached_batch_gpu(config: TrainConfig, items: TrainingSet, memo: Path) -> int:
    """The largest fitting ``batch_gpu``: as found before, or found now and noted in ``memo``.

    It is part of what decides the numbers, so a training must find the same again when it goes on.
    """
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))["batch_gpu"]
        return int(known)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    share = config.batch // config.gpus
    step = config.mbstd_group
    sizes = [n for n in range(step, share + 1, step) if share % n == 0]
    found = sizes[0]
    if len(sizes) > 1:
        print(f"finding the largest batch_gpu that fits, of {', '.join(map(str, sizes))}")
        device = pick_device(config.device)
        found = largest_fitting_batch(
            sizes, _trial(config, items), _room(device), device.type == "cuda"
        )
    print(f"batch_gpu {found}")
    write_json(memo, {"batch_gpu": found})
    return found


def largest_fitting_batch(
    sizes: Sequence[int], trial: Callable[[int], int | None], room: float, check: bool
) -> int:
    """The largest of ascending ``sizes`` whose step fits.

    What a step takes grows linearly with its images: the two smallest tell about the others.

    Args:
        trial: bytes that a step of so many images takes, None if it does not fit.
        room: bytes to be had.
        check: try the choice itself, and smaller ones until one fits.

    Raises:
        OutOfMemory: not even the smallest fits.
    """
    first = trial(sizes[0])
    if first is None or first > room:
        raise TrainingMemoryError(
            f"not even {sizes[0]} images a pass fit into {room / 2**30:.1f} GiB; lower cbase, cmax "
            "or the resolution of the packed set"
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


def _trial(config: TrainConfig, items: TrainingSet) -> Callable[[int], int | None]:
    form: dict[str, Any] = {
        "resolution": items.packed.resolution,
        "channels": items.packed.channels,
        "c_dim": items.label_dim,
    }
    if config.resume_arch:
        form["architecture"] = architecture_of(load_networks(config.resume), config, **form)

    def trial(size: int) -> int | None:
        small = dataclasses.replace(config, gpus=1, batch=size, batch_gpu=size)
        content = json.dumps({"config": dataclasses.asdict(small), **form})
        command = [sys.executable, "-m", "sg3flow.training.batch_size_finder", content]
        done = subprocess.run(command, capture_output=True, text=True)
        return _taken(size, done)

    return trial


def _taken(size: int, done: "subprocess.CompletedProcess[str]") -> int | None:
    """What a trial found; the system ends by a signal what takes too much.

    Raises:
        Interrupted: a person ended it; no size must be remembered for that.
        Sg3flowError: it failed for another reason, which says nothing about sizes.
    """
    if -done.returncode in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        raise TrainingInterruptedError(
            "stopped while batch_gpu was tried out; the same command tries it again"
        )
    if done.returncode < 0:
        return None
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Sg3flowError(
            f"--batch-gpu auto: a step of {size} images a pass, tried out, failed ({last[:300]}); "
            "repair that, or give --batch-gpu a number"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return int(found) if found is not None else None


def _measure(config: TrainConfig, form: dict[str, Any]) -> int | None:
    """Bytes that one step takes at most."""
    device = pick_device(config.device)
    channels, side = form["channels"], form["resolution"]
    try:
        parts = build(config, device=device, **form)
        img = torch.zeros([config.batch, channels, side, side], device=device)
        c = torch.zeros([config.batch, form["c_dim"]], device=device)

        def draw(phase: str) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.randn([config.batch, parts.G.z_dim], device=device), c

        with flushed_denormals():
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
