"""Seconds per kimg of a training under one change at a time, and what its time goes to, on a GPU.

python benchmarks/training_changes.py [--json FILE] [--cfg stylegan3-t] [--resolution 256]
    [--batch 32] [--steps 16] [--brief] [--device cuda] [--dtype float16] [--cbase 32768]

`host ms` is what the CPU needs to issue a step; if it is close to `step ms`, the GPU waits for it.
The first change is none: its row comes twice, so that the second shows how times vary. At the end
the operations that take the most time are listed, from a profile of two steps.
"""

import functools
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu import gpu_arguments, limits, make_parts, require_device, running, turn
from measure import Row, report
from sg3flow.config import CONFIGS
from sg3flow.device import flushed_denormals
from sg3flow.errors import ConfigError
from sg3flow.precision import EXACT, Precision, computing
from sg3flow.training.assembly import Parts
from sg3flow.training.conv_choice import run_networks, settle_forms

_WARM_UP = 3  # steps
_PROFILED = 2
_MOST_LISTED = 40


@dataclass(frozen=True)
class Change:
    """What differs from a training by default.

    Attributes:
        settings: of ``TrainConfig``.
    """

    name: str
    precision: Precision = EXACT
    settings: Mapping[str, Any] = field(default_factory=dict)


CHANGES = (
    Change("none"),
    Change("none, again"),
    Change("cudnn.benchmark", Precision(cudnn_benchmark=True)),
    Change("TF32", Precision(tf32=True)),
    Change("grouped convolutions", settings={"conv_form": "grouped"}),
    Change("shared convolutions", settings={"conv_form": "shared"}),
    Change("CUDA graphs", settings={"cuda_graphs": True}),
    Change("Adam by foreach", settings={"optimizer": "foreach"}),
)


def changes_on(device: torch.device, is_brief: bool) -> tuple[Change, ...]:
    """The changes that a device knows."""
    wanted = CHANGES[:2] if is_brief else CHANGES
    on_gpus = ("conv_form", "cuda_graphs")
    return tuple(c for c in wanted if device.type == "cuda" or not {*on_gpus} & {*c.settings})


def changed_parts(change: Change, options, folder: Path) -> Parts:
    """A training with the settings of a change; its forms of convolutions are chosen as in one.

    Args:
        folder: where the measured forms are kept, for the changes that follow.
    """
    parts = make_parts(options.cfg, options.resolution, options, **change.settings)
    settle_forms(
        change.settings.get("conv_form", "auto"),
        parts.device,
        lambda: run_networks(parts.G, parts.D, options.batch),
        kept=folder / f"{change.name}.json",
        memory=folder / "memory.json",
    )
    return parts


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_row(name: str, parts: Parts, options) -> Row:
    """Time and memory of steps through one turn of all phases."""
    device, steps = parts.device, options.steps
    run = functools.partial(turn, parts, options.resolution, options.batch)
    run(_WARM_UP)
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    run(steps)
    issued = time.perf_counter() - start
    synchronize(device)
    passed = time.perf_counter() - start
    row: Row = {"change": name, "s/kimg": passed / steps / options.batch * 1000}
    row |= {"step ms": passed / steps * 1000, "host ms": issued / steps * 1000}
    is_cuda = device.type == "cuda"
    return row | {"GiB": torch.cuda.max_memory_allocated(device) / 2**30 if is_cuda else None}


def change_row(change: Change, options, folder: Path) -> Row:
    """`step_row` under a change; without figures if this GPU cannot run it."""
    try:
        with computing(change.precision):
            return step_row(change.name, changed_parts(change, options, folder), options)
    except (ConfigError, RuntimeError) as error:
        print(f"{change.name}: {str(error).splitlines()[0][:200]}")
        return {"change": change.name} | dict.fromkeys(("s/kimg", "step ms", "host ms", "GiB"))


def profile_rows(work: Callable[[], None], device: torch.device, steps: int) -> list[Row]:
    """The operations with the most time of their own, in milliseconds per step."""
    kinds = [ProfilerActivity.CPU]
    kinds += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=kinds) as found:
        work()
        synchronize(device)
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, name))
    return [
        {
            "operation": event.key[:90],
            "ms per step": getattr(event, name) / 1e3 / steps,
            "calls per step": event.count / steps,
        }
        for event in events[:_MOST_LISTED]
    ]


def main() -> None:
    parser = gpu_arguments(__doc__)
    parser.add_argument("--cfg", default=CONFIGS[0], choices=CONFIGS[:2])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="that are measured")
    parser.add_argument("--brief", action="store_true", help="no change and no profile")
    options = parser.parse_args()
    device = require_device(options)
    found = []
    with TemporaryDirectory() as name, running("kernels", device), flushed_denormals():
        folder = Path(name)
        for change in changes_on(device, options.brief):
            found.append(change_row(change, options, folder))
            gc.collect()
        machine = limits(device, getattr(torch, options.dtype), 30 if device.type == "cuda" else 20)
        report(found, machine, options.json)
        if options.brief:
            return
        with computing():
            parts = changed_parts(CHANGES[0], options, folder)
            work = functools.partial(turn, parts, options.resolution, options.batch, _PROFILED)
            work()
            profiled = profile_rows(work, device, _PROFILED)
    path = options.json and options.json.with_stem(f"{options.json.stem}-profile")
    report(profiled, machine, path)


if __name__ == "__main__":
    main()
