"""How many images of a pass fit into memory: tried out, in a process of its own.

    python -m sg3flow.training.fit '{"config": {...}, "resolution": 256, "channels": 3, "c_dim": 0}'

runs one step with all its phases and prints the bytes it took at most, or null if it did not fit.
"""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sg3flow.checkpoints import load_networks
from sg3flow.config import TrainConfig
from sg3flow.data.dataset import TrainingSet
from sg3flow.devices import flushed_denormals, pick_device
from sg3flow.errors import Interrupted, OutOfMemory, Sg3flowError
from sg3flow.files import write_json
from sg3flow.limits import free_memory
from sg3flow.training.build import build
from sg3flow.training.memory import is_out_of_memory, peak_rss
from sg3flow.training.step import RealBatch, run_step
from sg3flow.training.transfer import architecture_of

# Of the memory that is free: fragments and the peaks of snapshots need some too.
_GPU_SHARE, _HOST_SHARE = 0.92, 0.75


def remembered_batch_gpu(config: TrainConfig, items: TrainingSet, memo: Path) -> int:
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
        found = largest_fitting(sizes, _trial(config, items), _room(device), device.type == "cuda")
    print(f"batch_gpu {found}")
    write_json(memo, {"batch_gpu": found})
    return found


def largest_fitting(
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
        raise OutOfMemory(
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
        command = [sys.executable, "-m", "sg3flow.training.fit", content]
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
        raise Interrupted("stopped while batch_gpu was tried out; the same command tries it again")
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
