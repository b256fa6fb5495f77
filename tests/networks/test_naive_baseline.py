"""The baseline of the benchmarks computes what the networks do."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from naive import running


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
@pytest.mark.parametrize("update_emas", [False, True])
def test_images_of_the_baseline_are_those_of_plain_pytorch(small_generator, cfg, update_emas):
    found = {}
    for variant in ("naive", "plain"):
        G = small_generator(cfg)
        with running(variant), torch.no_grad():
            ws = G.mapping(torch.ones(2, G.z_dim), torch.zeros(2, 0))
            found[variant] = G.synthesis(ws, update_emas=update_emas)
    largest = found["plain"].abs().max()
    assert largest > 0 and (found["naive"] - found["plain"]).abs().max() < 1e-4 * largest
