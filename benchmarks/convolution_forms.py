"""Milliseconds of the convolutions of a generator in each form, forward and backward, on a GPU.

python benchmarks/convolution_forms.py [--json FILE] [--repeats 5] [--cfg stylegan3-t]
    [--resolution 256] [--batch 16] [--device cuda] [--cbase 32768] [--cmax 512]

The forms: `grouped` (weights of each sample, one group per sample) or `shared` (one for all); in
NCHW or `nhwc` (channels last); with channels as they are or padded to a multiple of `8`. Each is
measured without and with cudnn.benchmark. A TFLOP is 10^12 additions or multiplications.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gpu import gpu_arguments, limits, require_device, seconds
from measure import Row, report
from sg3flow.config import CONFIGS
from sg3flow.networks.layer_schedule import LayerPlan, ScheduleArguments, plan_layers
from sg3flow.precision import Precision, computing

_RADIAL = {"conv_kernel": 1, "use_radial_filters": True}


@dataclass(frozen=True)
class Form:
    """How a modulated convolution is computed.

    Attributes:
        grouped: the samples are groups with weights of their own; else all share one weight.
        channels_last: NHWC in memory.
        multiple: channels are padded to a multiple of it.
    """

    grouped: bool
    channels_last: bool
    multiple: int

    @property
    def name(self) -> str:
        """Like ``grouped nhwc 8``."""
        parts = ["grouped" if self.grouped else "shared", *["nhwc"] * self.channels_last]
        return " ".join([*parts, *["8"] * (self.multiple > 1)])


FORMS = [Form(*each) for each in itertools.product((True, False), (False, True), (1, 8))]


def layers_of(cfg: str, resolution: int, base: int, most: int) -> list[tuple[LayerPlan, int]]:
    """The layers of a generator before its last one, and the width of their kernels."""
    capacity, kernel = {"channel_base": base, "channel_max": most}, 3
    if cfg == "stylegan3-r":
        capacity, kernel = {name: 2 * value for name, value in capacity.items()} | _RADIAL, 1
    plans = plan_layers(ScheduleArguments(resolution, 3, **capacity)).layers[:-1]
    return [(plan, kernel) for plan in plans]


def make_call(
    form: Form, plan: LayerPlan, kernel: int, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A function that runs one convolution forward and backward."""
    wide = [-(-n // form.multiple) * form.multiple for n in (plan.in_channels, plan.out_channels)]
    inputs, outputs = wide
    many = batch if form.grouped else 1
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    size = plan.in_size
    x = torch.randn(batch // many, many * inputs, size, size, device=device, dtype=dtype)
    w = torch.randn(many * outputs, inputs, kernel, kernel, device=device, dtype=dtype)
    x, w = (t.to(memory_format=layout).requires_grad_() for t in (x, w))

    def call() -> object:
        y = F.conv2d(x, w, padding=kernel - 1, groups=many)
        return torch.autograd.grad(y, (x, w), y.detach())

    return call


def teraflops(plan: LayerPlan, kernel: int, batch: int) -> float:
    """Of the forward pass and both gradients, without padded channels; in TFLOP."""
    samples = batch * (plan.in_size + kernel - 1) ** 2
    return 3 * 2 * samples * plan.in_channels * plan.out_channels * kernel**2 / 1e12


def milliseconds(call: Callable[[], object], device: torch.device, repeats: int) -> float | None:
    """The median; None: the GPU cannot compute it in this form."""
    try:
        call(), call()
        return 1e3 * statistics.median(seconds(call, device) for _ in range(repeats))
    except RuntimeError as error:
        print(f"failed: {str(error).splitlines()[0][:200]}")
        return None


def rows(options) -> Iterator[Row]:
    """A row per layer and setting of cudnn.benchmark."""
    device, half = torch.device(options.device), getattr(torch, options.dtype)
    for benchmark in (False, True):
        with computing(Precision(cudnn_benchmark=benchmark)):
            for plan, kernel in layers_of(
                options.cfg, options.resolution, options.cbase, options.cmax
            ):
                dtype = half if plan.use_fp16 and device.type == "cuda" else torch.float32
                found = {}
                for form in FORMS:
                    call = make_call(form, plan, kernel, options.batch, dtype, device)
                    found[form.name] = milliseconds(call, device, options.repeats)
                yield layer_row(plan, kernel, options.batch, dtype, benchmark, found)


def layer_row(
    plan: LayerPlan,
    kernel: int,
    batch: int,
    dtype: torch.dtype,
    benchmark: bool,
    found: dict[str, float | None],
) -> Row:
    """The times of a layer, its fastest form, and that form's speed."""
    best = min((time, name) for name, time in found.items() if time)
    row: Row = {"layer": plan.name, "channels": f"{plan.in_channels}>{plan.out_channels}"}
    row |= {"type": str(dtype).removeprefix("torch."), "benchmark": "yes" if benchmark else "no"}
    row |= found
    return row | {"best": best[1], "TFLOP/s": 1e3 * teraflops(plan, kernel, batch) / best[0]}


def totals(found: list[Row]) -> list[Row]:
    """Milliseconds over all layers of each form that computes them all, the fastest first."""
    sums: list[Row] = []
    for form, benchmark in itertools.product(FORMS, ("no", "yes")):
        times = [row[form.name] for row in found if row["benchmark"] == benchmark]
        if None not in times:
            sums.append({"form": form.name, "benchmark": benchmark, "ms": sum(times)})
    return sorted(sums, key=lambda row: row["ms"])


def main() -> None:
    parser = gpu_arguments(__doc__)
    parser.add_argument("--cfg", default=CONFIGS[0], choices=CONFIGS[:2])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    device = require_device(options)
    machine = limits(device, getattr(torch, options.dtype), 30 if device.type == "cuda" else 20)
    found = list(rows(options))
    report(found, machine, options.json)
    path = options.json and options.json.with_stem(f"{options.json.stem}-totals")
    report(totals(found), machine, path)


if __name__ == "__main__":
    main()
