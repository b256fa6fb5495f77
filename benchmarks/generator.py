"""Seconds per picture of the StyleGAN3 generators at 256 px and default capacity, batch 1.

python benchmarks/generator.py [--json FILE] [--resolution 256] [--repeats 5] [--skip-naive]
"""

import torch

from measure import Row, arguments, bound_sec, by_turns, limits, report
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
    """Multiplications of the convolutions of one picture, done directly."""
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
    machine, rows = limits(), []
    for cfg, arguments_of in CAPACITIES.items():
        G = StyleGAN3Generator(512, 0, 512, options.resolution, 3, **arguments_of).eval()
        rows.append(measured(cfg, G, variants, options.repeats, machine))
    report(rows, machine, options.json)


def measured(
    cfg: str,
    G: StyleGAN3Generator,
    variants: tuple[str, ...],
    repeats: int,
    machine: dict[str, float],
) -> Row:
    z, c = torch.randn(1, 512), torch.zeros(1, 0)
    pictures = {}

    def call(variant: str) -> None:
        with running(variant), torch.inference_mode():
            pictures[variant] = G(z, c)

    times = by_turns({v: (lambda v=v: call(v)) for v in variants}, repeats)
    expected = pictures[variants[0]]
    error = max(
        float((pictures[v] - expected).abs().max() / expected.abs().max()) for v in pictures
    )
    row: Row = {"generator": f"{cfg} {G.img_resolution}px"}
    row |= {f"{v} s": times[v] for v in variants}
    row |= {f"{v}/kernels": times[v] / times["kernels"] for v in variants[:-1]}
    row["direct convolutions s"] = bound_sec(machine, 0, convolution_products(G))
    return row | {"largest difference": error}


if __name__ == "__main__":
    main()
