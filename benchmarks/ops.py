"""Milliseconds of the ops: filtered_lrelu and modulated convolution by layer, and upfirdn2d.

python benchmarks/ops.py [--json FILE] [--resolution 256] [--channels 32] [--repeats 5]

Planes are independent, so a few channels of each layer are enough; `--channels 0` uses all.
"""

from collections.abc import Callable, Iterator

import torch

from measure import Row, arguments, bound_sec, by_turns, limits, report
from naive import VARIANTS, filtered_lrelu, fir, running
from sg3flow import ops
from sg3flow.networks.layer_schedule import (
    LayerPlan,
    ScheduleArguments,
    lowpass_filter,
    plan_layers,
)
from sg3flow.ops.fir import FirSpec

_T = {"channel_base": 32768, "channel_max": 512}
_R = {"channel_base": 65536, "channel_max": 1024, "conv_kernel": 1, "use_radial_filters": True}


def layer_rows(
    cfg: str, arguments_of: dict[str, int], resolution: int, channels: int, repeats: int
) -> Iterator[Row]:
    """filtered_lrelu of each layer, forward and forward with backward."""
    kernel = 1 if cfg == "r" else 3
    for plan in plan_layers(ScheduleArguments(resolution, 3, **arguments_of)).layers[:-1]:
        count = min(channels or plan.out_channels, plan.out_channels)
        size = plan.in_size + kernel - 1
        x, b = torch.randn(1, count, size, size), torch.zeros(count)
        for backward in (False, True):
            calls = {v: _layer_call(v, plan, x, b, backward) for v in VARIANTS}
            row: Row = {"op": f"{cfg} {plan.name} {'forward+backward' if backward else 'forward'}"}
            pixels = count * plan.out_size**2
            yield row | _times(calls, repeats, _bytes(x, pixels), _products(plan, pixels), backward)


def _layer_call(
    variant: str, plan: LayerPlan, x: torch.Tensor, b: torch.Tensor, backward: bool
) -> Callable[[], None]:
    up_width, down_width = plan.in_half_width * 2, plan.out_half_width * 2
    rate, radial = plan.tmp_sampling_rate, plan.down_radial
    fu = lowpass_filter(plan.up_taps, plan.in_cutoff, up_width, rate)
    fd = lowpass_filter(plan.down_taps, plan.out_cutoff, down_width, rate, radial=radial)
    op = filtered_lrelu if variant == "naive" else ops.filtered_lrelu
    options = {"up": plan.up_factor, "down": plan.down_factor, "padding": plan.padding}
    x = x.detach().requires_grad_(backward)

    def call() -> None:
        with running(variant):
            y = op(x, fu, fd, b, **options, gain=2**0.5, slope=0.2, clamp=256.0)
            if backward:
                torch.autograd.grad(y, x, y.detach())

    return call


def _bytes(x: torch.Tensor, pixels: int) -> float:
    return 4.0 * (x.numel() + pixels)


def _products(plan: LayerPlan, pixels: int) -> float:
    """Products of the filters per result: up across and along, down (2-D, or along and across)."""
    up, down = plan.up_factor, plan.down_factor
    up_taps, down_taps = plan.up_taps / up, plan.down_taps
    upsampling = up_taps * (down**2 / up + down**2)
    return pixels * (upsampling + (down_taps**2 if plan.down_radial else down_taps * (down + 1)))


def _times(
    calls: dict[str, Callable[[], None]],
    repeats: int,
    num_bytes: float,
    products: float,
    backward: bool,
) -> Row:
    times = by_turns(calls, repeats)
    passes = 2 if backward else 1
    bound = bound_sec(_MACHINE, passes * num_bytes, passes * products)
    row: Row = {f"{v} ms": times[v] * 1e3 for v in calls}
    row |= {f"{v}/kernels": times[v] / times["kernels"] for v in VARIANTS[:-1]}
    return row | {"roofline ms": bound * 1e3, "of roofline": bound / times["kernels"]}


def resampling_rows(repeats: int) -> Iterator[Row]:
    """upfirdn2d as the discriminator and the augmentation use it."""
    short, long = ops.setup_filter([1, 3, 3, 1]), ops.setup_filter([1.0] * 12)
    cases = {
        "upfirdn2d 4 taps": (torch.randn(4, 64, 128, 128), short, FirSpec(padding=(2, 2, 2, 2))),
        "upfirdn2d 4 taps down 2": (
            torch.randn(4, 64, 128, 128),
            short,
            FirSpec(down=(2, 2), padding=(1, 1, 1, 1)),
        ),
        "upfirdn2d 12 taps up 2": (
            torch.randn(8, 3, 256, 256),
            long,
            FirSpec(up=(2, 2), padding=(6, 5, 6, 5), gain=4),
        ),
    }
    for name, (x, f, spec) in cases.items():
        calls = {v: _fir_call(v, x, f, spec) for v in VARIANTS}
        height, width = spec.output_size((x.shape[2], x.shape[3]), (len(f), len(f)))
        pixels = x.shape[0] * x.shape[1] * height * width
        yield {"op": name} | _times(calls, repeats, _bytes(x, pixels), pixels * 2 * len(f), False)


def _fir_call(variant: str, x: torch.Tensor, f: torch.Tensor, spec: FirSpec) -> Callable[[], None]:
    from sg3flow.ops import upfirdn2d as module_function

    def call() -> None:
        with running(variant):
            if variant == "naive":
                fir(x, f, spec)
            else:
                module_function(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)

    return call


def convolution_rows(repeats: int) -> Iterator[Row]:
    """Modulated convolutions of both configurations: grouped per sample, plain, kernels."""
    from naive import modulated_conv2d

    for n, c_in, c_out, size, k in (
        (1, 512, 512, 84, 3),
        (8, 128, 128, 36, 3),
        (8, 64, 64, 52, 3),
        (1, 1024, 1024, 84, 1),
        (8, 128, 128, 52, 1),
    ):
        x, w, s = (
            torch.randn(n, c_in, size, size),
            torch.randn(c_out, c_in, k, k),
            torch.ones(n, c_in),
        )

        def call(variant: str, x=x, w=w, s=s, k=k) -> None:
            op = modulated_conv2d if variant == "naive" else ops.modulated_conv2d
            with running(variant):
                op(x, w, s, padding=k - 1)

        calls = {v: (lambda v=v, call=call: call(v)) for v in VARIANTS}
        pixels = n * (size + k - 1) ** 2
        name = f"modulated {k}x{k} {n}x{c_in}->{c_out} {size}px"
        products = float(pixels * w.numel())
        yield {"op": name} | _times(calls, repeats, _bytes(x, pixels * c_out), products, False)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--channels", type=int, default=32)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    _MACHINE.update(limits())
    rows: list[Row] = []
    for cfg, capacity in (("t", _T), ("r", _R)):
        rows += layer_rows(cfg, capacity, options.resolution, options.channels, options.repeats)
    rows += resampling_rows(options.repeats)
    rows += convolution_rows(options.repeats)
    report(rows, _MACHINE, options.json)


_MACHINE: dict[str, float] = {}

if __name__ == "__main__":
    main()
