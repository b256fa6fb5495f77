"""Small generators with random weights."""

from collections.abc import Callable

import pytest
import torch

from sg3flow.networks import StyleGAN3Generator


@pytest.fixture(scope="session")
def make_generator() -> Callable[..., StyleGAN3Generator]:
    """Makes a seeded StyleGAN3 generator of 16 x 16 pixels and a few channels."""

    def make(c_dim: int = 0, img_channels: int = 3, img_resolution: int = 16):
        torch.manual_seed(0)
        network = StyleGAN3Generator(
            z_dim=16,
            c_dim=c_dim,
            w_dim=16,
            img_resolution=img_resolution,
            img_channels=img_channels,
            channel_base=512,
            channel_max=16,
        )
        return network.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def generator(make_generator):
    """An unlabeled generator of RGB pictures."""
    return make_generator()
