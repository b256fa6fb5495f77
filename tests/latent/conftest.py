"""Small generators whose images depend on every layer."""

from collections.abc import Callable

import pytest
import torch

from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator

KINDS = {"stylegan3": StyleGAN3Generator, "stylegan2": StyleGAN2Generator}


@pytest.fixture(scope="session")
def small_generator() -> Callable[..., torch.nn.Module]:
    """``small_generator(kind="stylegan3", c_dim=0, seed=4)`` of 16 x 16 pixels."""

    def make(kind="stylegan3", c_dim=0, seed=4, img_channels=3):
        torch.manual_seed(seed)
        sizes = {"img_resolution": 16, "channel_base": 512, "channel_max": 16}
        G = KINDS[kind](z_dim=16, c_dim=c_dim, w_dim=16, img_channels=img_channels, **sizes)
        for parameter in G.parameters():  # a fresh network has noise strengths of 0
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        return G.eval().requires_grad_(False)

    return make
