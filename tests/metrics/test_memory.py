"""Distances are taken in blocks: beyond the features, memory does not grow with their number."""

import subprocess
import sys
import textwrap

import pytest

_SCRIPT = """
    import resource, sys
    import numpy as np, torch
    from sg3flow.metrics import neighborhoods
    from sg3flow.metrics.neighborhoods import density_coverage_estimates
    from sg3flow.metrics.polynomial_mmd import kernel_estimate
    from sg3flow.metrics.neighborhoods import memorization
    from sg3flow.metrics.neighborhoods import precision_recall_estimates

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def measure(real, gen):
        precision_recall_estimates(real, gen, 3)
        density_coverage_estimates(real, gen, 3)
        memorization(real, gen, 4)
        kernel_estimate(real.numpy(), gen.numpy(), 2, 200, 0)

    neighborhoods._BLOCK = block = 512
    features, count = 32, 9000
    real, gen = torch.randn(2, count, features)
    measure(real[:600], gen[:600])  # libraries and pools
    before = peak()
    measure(real, gen)
    print(peak() - before, 4 * block * block, 4 * count * count)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has another unit")
@pytest.mark.medium
def test_peak_is_some_blocks_whatever_the_counts():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_SCRIPT)],
        capture_output=True,
        text=True,
        timeout=200,
        env={"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    grown, block, everything = map(int, done.stdout.split())
    # 16 MiB for what counts items: radii, indices, masks.
    assert grown < 8 * block + (16 << 20) < everything / 10
