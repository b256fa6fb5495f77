"""Seconds per image of the StyleGAN3 generators at 256 px and default capacity, batch 1.

python benchmarks/generator.py [--json FILE] [--resolution 256] [--repeats 5] [--skip-naive]
"""

from collections.abc import Callable

import torch

from measure import Row, arguments, bound_sec, by_turns_apart, limits, report
from naive import VARIANTS, running
from sg3flow.networks import StyleGAN3Generator

CAPACITIES = {
    "stylegan3-t": {},
    "stylegan3-r": {
        "channel_base": 65536,
        "channel_max": 1024,
        "conv_kernel": 1,
        "use_radial_filters": True,
    },
}


def convolution_products(G: StyleGAN3Generator) -> float:
    """Multiplications of the convolutions of one image, as direct convolutions."""
    total = 0
    for plan in G.synthesis.schedule.layers:
        weight = G.synthesis.get_submodule(plan.name).weight
        k = weight.shape[2]
        total += weight.numel() * (plan.in_size + k - 1) ** 2
    return total


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--skip-naive", action="store_true", help="it takes a minute")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    variants = VARIANTS[1:] if options.skip_naive else VARIANTS
    machine = limits()
    rows = [
        measured(cfg, options.resolution, variants, options.repeats, machine) for cfg in CAPACITIES
    ]
    report(rows, machine, options.json)


def make_generator(cfg: str, resolution: int) -> StyleGAN3Generator:
    """The same weights in every process."""
    torch.manual_seed(0)
    return StyleGAN3Generator(512, 0, 512, resolution, 3, **CAPACITIES[cfg]).eval()


def make_call(variant: str, cfg: str, resolution: int, threads: int) -> Callable[[], torch.Tensor]:
    """A function that draws one image with a variant; it runs in a separate process."""
    torch.set_num_threads(threads)
    G = make_generator(cfg, resolution)
    z, c = torch.randn(1, 512), torch.zeros(1, 0)

    def call() -> torch.Tensor:
        with running(variant), torch.inference_mode():
            return G(z, c)

    return call


def measured(
    cfg: str,
    resolution: int,
    variants: tuple[str, ...],
    repeats: int,
    machine: dict[str, float],
) -> Row:
    threads = torch.get_num_threads()
    times = by_turns_apart(make_call, {v: (v, cfg, resolution, threads) for v in variants}, repeats)
    images = [make_call(v, cfg, resolution, threads)() for v in variants]
    largest = images[0].abs().max()
    error = max(float((image - images[0]).abs().max() / largest) for image in images)
    G = make_generator(cfg, resolution)
    row: Row = {"generator": f"{cfg} {G.img_resolution}px"}
    row |= {f"{v} s": times[v] for v in variants}
    row |= {f"{v}/kernels": times[v] / times["kernels"] for v in variants[:-1]}
    row["direct convolutions s"] = bound_sec(machine, 0, convolution_products(G))
    return row | {"largest difference": error}


if __name__ == "__main__":
    main()
