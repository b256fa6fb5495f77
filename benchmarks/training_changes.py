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
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from gpu import gpu_arguments, limits, make_parts, require_device, running, turn
from measure import Row, report
from sg3flow.config import CONFIGS
from sg3flow.device import flushed_denormals
from sg3flow.ops import modulated_conv2d
from sg3flow.precision import EXACT, Precision, computing
from sg3flow.training.assembly import Parts

_WARM_UP = 3  # steps
_PROFILED = 2
_MOST_LISTED = 40


@dataclass(frozen=True)
class Change:
    """What differs from a training by default.

    Attributes:
        has_shared_weights: all samples share the weights of a convolution.
        settings: of ``TrainConfig``.
    """

    name: str
    precision: Precision = EXACT
    has_shared_weights: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


CHANGES = (
    Change("none"),
    Change("none, again"),
    Change("cudnn.benchmark", Precision(cudnn_benchmark=True)),
    Change("TF32", Precision(tf32=True)),
    Change("shared weights", has_shared_weights=True),
    Change("Adam by foreach", settings={"optimizer": "foreach"}),
    Change("the first three", Precision(tf32=True, cudnn_benchmark=True), True),
)


def changed(change: Change) -> ExitStack:
    """Run steps under a change; its settings are those of ``make_parts``."""
    stack = ExitStack()
    stack.enter_context(computing(change.precision))
    if change.has_shared_weights:
        shared = functools.partial(modulated_conv2d, per_sample=False)
        stack.enter_context(mock.patch("sg3flow.networks.stylegan3.modulated_conv2d", shared))
    return stack


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
    with running("kernels", device), flushed_denormals():
        for change in CHANGES[:2] if options.brief else CHANGES:
            with changed(change):
                parts = make_parts(options.cfg, options.resolution, options, **change.settings)
                found.append(step_row(change.name, parts, options))
            gc.collect()
        machine = limits(device, getattr(torch, options.dtype), 30 if device.type == "cuda" else 20)
        report(found, machine, options.json)
        if options.brief:
            return
        work = functools.partial(turn, parts, options.resolution, options.batch, _PROFILED)
        with computing():
            profiled = profile_rows(work, device, _PROFILED)
    path = options.json and options.json.with_stem(f"{options.json.stem}-profile")
    report(profiled, machine, path)


if __name__ == "__main__":
    main()
