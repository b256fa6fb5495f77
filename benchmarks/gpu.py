"""On a GPU: filtered_lrelu of every layer and training steps, by kernels and by plain PyTorch.

python benchmarks/gpu.py [--json FILE] [--resolutions 256,512] [--dtype float16] [--batch 32]

Medians of interleaved repeats. `of copy` is the time that reading the input and writing the output
and the flags would take at the bandwidth measured here, over the kernels' time. `--device cpu`
only tests the script; its numbers mean nothing.
"""

import argparse
import dataclasses
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from measure import Row, arguments, bound_sec, report
from sg3flow.config import CONFIGS, TrainConfig
from sg3flow.device import flushed_denormals
from sg3flow.networks.layer_schedule import (
    LayerPlan,
    ScheduleArguments,
    lowpass_filter,
    plan_layers,
)
from sg3flow.ops import filtered_lrelu
from sg3flow.precision import computing
from sg3flow.training.assembly import D_REG_INTERVAL, Parts, build, resolve
from sg3flow.training.step import RealBatch, run_step, seed_step

VARIANTS = ("plain", "kernels")
_RADIAL = {"conv_kernel": 1, "use_radial_filters": True}


def running(variant: str, device: torch.device):
    """Run the ops in plain PyTorch, or in kernels without a fallback."""
    setting = "torch" if variant == "plain" else device.type
    return mock.patch.dict(os.environ, {"SG3FLOW_OPS": setting})


def seconds(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds per call, measured over several in sequence."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def by_turns(
    calls: dict[str, Callable[[], object]], device: torch.device, repeats: int, times: int
) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that a hot card slows all alike."""
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(seconds(call, device, times))
    return {name: statistics.median(values) for name, values in found.items()}


def limits(device: torch.device, dtype: torch.dtype, log_bytes: int) -> dict[str, float]:
    """Limits of the card: bytes copied (read and written) and products per second in ``dtype``."""
    a = torch.empty(1 << log_bytes, dtype=torch.uint8, device=device)
    b, side = torch.empty_like(a), 4096 if device.type == "cuda" else 256
    m = torch.randn(side, side, device=device).to(dtype)
    calls = {"copy": lambda: b.copy_(a), "matmul": lambda: m @ m}
    times = by_turns(calls, device, 7, 5)
    return {
        "bytes_per_sec": 2 * a.numel() / times["copy"],
        "products_per_sec": side**3 / times["matmul"],
    }


def layer_rows(cfg: str, resolution: int, machine: dict[str, float], options) -> Iterator[Row]:
    """filtered_lrelu of each layer of the generator, forward, and forward with backward."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    capacity = {"channel_base": options.cbase, "channel_max": options.cmax}
    if cfg == "stylegan3-r":
        capacity = {name: 2 * value for name, value in capacity.items()} | _RADIAL
    kernel = 1 if cfg == "stylegan3-r" else 3
    for plan in plan_layers(ScheduleArguments(resolution, 3, **capacity)).layers[:-1]:
        size = plan.in_size + kernel - 1
        x = torch.randn(options.samples, plan.out_channels, size, size, device=device).to(dtype)
        for backward in (False, True):
            calls = {v: layer_call(v, plan, x, backward) for v in VARIANTS}
            times = by_turns(calls, device, options.repeats, options.times)
            name = f"{cfg[-1]} {resolution} {plan.name}{' +backward' if backward else ''}"
            bound = bound_sec(machine, layer_bytes(plan, x, backward), 0)
            yield {"op": name} | compared(times, bound)


def layer_call(variant: str, plan: LayerPlan, x: torch.Tensor, backward: bool):
    """A call of one layer's op, with its gradient on request."""
    rate, widths = plan.tmp_sampling_rate, (2 * plan.in_half_width, 2 * plan.out_half_width)
    fu = lowpass_filter(plan.up_taps, plan.in_cutoff, widths[0], rate)
    fd = lowpass_filter(plan.down_taps, plan.out_cutoff, widths[1], rate, radial=plan.down_radial)
    fu, fd = (None if f is None else f.to(x.device) for f in (fu, fd))
    b = torch.zeros(x.shape[1], dtype=x.dtype, device=x.device)
    shape = {"up": plan.up_factor, "down": plan.down_factor, "padding": plan.padding}
    x = x.detach().requires_grad_(backward)

    def call() -> None:
        with running(variant, x.device):
            y = filtered_lrelu(x, fu, fd, b, **shape, clamp=256.0)
            if backward:
                torch.autograd.grad(y, x, y.detach())

    return call


def layer_bytes(plan: LayerPlan, x: torch.Tensor, backward: bool) -> float:
    """Bytes of input and output per pass, and of 2 bits per upsampled sample, written and read."""
    planes = x.shape[0] * x.shape[1]
    moved = (x.numel() + planes * plan.out_size**2) * x.element_size()
    flags = planes * (plan.out_size * plan.down_factor) ** 2 / 4
    return 2.0 * (moved + flags) if backward else float(moved)


def compared(times: dict[str, float], bound: float) -> Row:
    row: Row = {f"{v} ms": times[v] * 1e3 for v in VARIANTS}
    row["plain/kernels"] = times["plain"] / times["kernels"]
    return row | {"copy ms": bound * 1e3, "of copy": bound / times["kernels"]}


def training_row(cfg: str, resolution: int, options) -> Row:
    """Whole steps through one turn of all phases: seconds per kimg, and peak memory."""
    row: Row = {"op": f"{cfg} {resolution} training"}
    for variant in VARIANTS:
        with running(variant, torch.device(options.device)), flushed_denormals():
            row |= training_figures(variant, make_parts(cfg, resolution, options), options)
        gc.collect()
    return row | {"plain/kernels": row["plain s/kimg"] / row["kernels s/kimg"]}


def training_figures(variant: str, parts: Parts, options) -> Row:
    side, batch, device = parts.G.img_resolution, options.batch, parts.device
    turn(parts, side, batch, 2)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    sec = seconds(lambda: turn(parts, side, batch, options.steps), device)
    row: Row = {f"{variant} s/kimg": sec / (options.steps * batch / 1000)}
    if device.type == "cuda":
        row[f"{variant} GiB"] = torch.cuda.max_memory_allocated(device) / 2**30
    return row


def make_parts(cfg: str, resolution: int, options, **changes: Any) -> Parts:
    """A training of the options, with other settings on request."""
    config = TrainConfig(
        cfg=cfg, gpus=1, batch=options.batch, gamma=2.0, cbase=options.cbase, cmax=options.cmax,
        optimizer=options.optimizer, fp32=options.dtype == "float32",
        bf16=options.dtype == "bfloat16",
    )  # fmt: skip
    sizes = {"resolution": resolution, "channels": 3, "c_dim": 0}
    config = dataclasses.replace(config, **changes)
    return build(resolve(config), **sizes, device=torch.device(options.device))


def turn(parts: Parts, resolution: int, batch: int, steps: int) -> None:
    """``steps`` batches; every 16th has the regularizer of D."""
    device = parts.device
    real = RealBatch(
        torch.zeros(batch, 3, resolution, resolution, device=device),
        torch.zeros(batch, 0, device=device),
    )

    def draw(phase: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(batch, parts.G.z_dim, device=device), real.c

    for number in range(steps):
        seed_step(0, number * batch)
        run_step(parts, real, draw, number * batch, batch)


def gpu_arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark of a GPU has."""
    parser = arguments(description)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--optimizer", default="fused", choices=("fused", "foreach", "plain"))
    parser.add_argument("--cbase", type=int, default=32768)
    parser.add_argument("--cmax", type=int, default=512)
    return parser


def require_device(options: argparse.Namespace) -> torch.device:
    """The device of the options; without a GPU the program ends, without an error."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(print("skipped: no CUDA device is visible to torch (--device cpu tries this out)"))
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu: a trial only")
    return device


def parsed() -> argparse.Namespace:
    parser = gpu_arguments(__doc__)
    parser.add_argument("--resolutions", default="256,512")
    parser.add_argument("--samples", type=int, default=8, help="images per op")
    parser.add_argument("--batch", type=int, default=32, help="of training, at the first of those")
    parser.add_argument("--steps", type=int, default=D_REG_INTERVAL, help="of training")
    parser.add_argument("--times", type=int, default=10, help="calls of an op in a repeat")
    return parser.parse_args()


@computing()  # exact float32, as training and rendering
def main() -> None:
    options = parsed()
    device = require_device(options)
    size = 30 if device.type == "cuda" else 20
    machine = limits(device, getattr(torch, options.dtype), size)
    resolutions = [int(part) for part in options.resolutions.split(",")]
    rows = [
        row
        for resolution in resolutions
        for cfg in CONFIGS[:2]
        for row in layer_rows(cfg, resolution, machine, options)
    ]
    report(rows, machine, options.json)
    steps = [training_row(cfg, resolutions[0], options) for cfg in CONFIGS]
    path = options.json and options.json.with_stem(f"{options.json.stem}-training")
    report(steps, machine, path)


if __name__ == "__main__":
    main()
