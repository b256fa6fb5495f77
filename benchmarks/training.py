"""Seconds and memory of one training step (G, then D) of small StyleGAN3-T networks, batch 8.

python benchmarks/training.py [--json FILE] [--repeats 5] [--cfg stylegan3-t] [--skip-naive]
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from measure import Row, arguments, by_turns_apart, limits, peak_mib, report
from naive import VARIANTS, running
from sg3flow.networks import Discriminator, StyleGAN3Generator

SIZES = ((32, 2048, 64), (64, 4096, 128))  # resolution, channel_base, channel_max
BATCH = 8


def make_step(cfg: str, resolution: int, base: int, most: int) -> Callable[[], None]:
    """One G phase and one D phase, without optimizers and regularizers."""
    torch.manual_seed(0)
    radial = {"conv_kernel": 1, "use_radial_filters": True} if cfg == "stylegan3-r" else {}
    capacity = {"channel_base": base, "channel_max": most}
    G = StyleGAN3Generator(512, 0, 512, resolution, 3, **capacity, **radial)
    D = Discriminator(0, resolution, 3, **capacity)
    z, c = torch.randn(BATCH, 512), torch.zeros(BATCH, 0)
    real = torch.randn(BATCH, 3, resolution, resolution)

    def step() -> None:
        D.requires_grad_(False)
        F.softplus(-D(G(z, c), c)).mean().backward()
        D.requires_grad_(True)
        with torch.no_grad():
            img = G(z, c)
        F.softplus(D(img, c)).mean().backward()
        F.softplus(-D(real, c)).mean().backward()
        for parameter in (*G.parameters(), *D.parameters()):
            parameter.grad = None

    return step


def make_call(
    variant: str, cfg: str, size: tuple[int, int, int], threads: int
) -> Callable[[], None]:
    """A function that runs one step with a variant; it runs in a separate process."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as training does; before any thread starts
    step = make_step(cfg, *size)

    def call() -> None:
        with running(variant):
            step()

    return call


def measured(cfg: str, size: tuple[int, int, int], variants: tuple[str, ...], repeats: int) -> Row:
    arguments_of = {v: (v, cfg, size, torch.get_num_threads()) for v in variants}
    times = by_turns_apart(make_call, arguments_of, repeats)
    memory = {v: peak_mib(make_call, *arguments_of[v]) for v in variants}
    row: Row = {"step": f"{cfg} {size[0]}px {size[1]}/{size[2]}"}
    row |= {f"{v} s": times[v] for v in variants}
    row |= {f"{v}/kernels": times[v] / times["kernels"] for v in variants[:-1]}
    row["kernels s/kimg"] = times["kernels"] * 1000 / BATCH
    return row | {f"{v} MiB": memory[v] for v in variants}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cfg", choices=("stylegan3-t", "stylegan3-r"), default="stylegan3-t")
    parser.add_argument("--skip-naive", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    variants = VARIANTS[1:] if options.skip_naive else VARIANTS
    rows = [measured(options.cfg, size, variants, options.repeats) for size in SIZES]
    report(rows, limits(), options.json)


if __name__ == "__main__":
    main()
