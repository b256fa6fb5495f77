"""Peak memory of the metrics over features, beyond the features themselves.

    python benchmarks/metrics_memory.py --reals 20000 --generated 20000 --features 4096

The features of the reals come from a memory-mapped file, as from the cache. Apart from some bytes
per item, the additional memory does not depend on the counts, so a small case predicts a large one.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch

from sg3flow.metrics.gaussian_mmd import gaussian_mmd
from sg3flow.metrics.neighborhoods import (
    density_coverage_estimates,
    memorization,
    precision_recall_estimates,
)
from sg3flow.metrics.polynomial_mmd import kernel_estimate
from sg3flow.metrics.vendi import vendi_estimate


def peak_gib() -> float:
    """Peak memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main() -> None:
    """Print the peak after each metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reals", type=int, default=8192)
    parser.add_argument("--generated", type=int, default=8192)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--metrics", nargs="*", help="default: all")
    options = parser.parse_args()
    device = torch.device(options.device)
    real = torch.randn(options.reals, options.features)
    gen = torch.randn(options.generated, options.features)
    held = (real.nbytes + gen.nbytes) / (1 << 30)
    start_gib = peak_gib()
    print(f"features {held:.2f} GiB, process {start_gib:.2f} GiB")
    cases: dict[str, Callable[[], object]] = {
        "kid": lambda: kernel_estimate(real.numpy(), gen.numpy(), 4, 1000, 0),
        "pr3": lambda: precision_recall_estimates(real, gen, 3, device=device),
        "dc5": lambda: density_coverage_estimates(real, gen, 5, device=device),
        "mem": lambda: memorization(real, gen, 8, device=device),
        "vendi": lambda: vendi_estimate(gen.numpy()),
        "cmmd": lambda: gaussian_mmd(real, gen, 10.0, device=device),
    }
    for name, case in cases.items():
        if options.metrics and name not in options.metrics:
            continue
        start = time.perf_counter()
        case()
        seconds, added = time.perf_counter() - start, peak_gib() - start_gib
        print(f"{name}: {seconds:.1f} s, {added:.2f} GiB beyond the features")


if __name__ == "__main__":
    main()
