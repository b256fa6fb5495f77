"""Tiny networks."""

import pytest
import torch

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

SMALL = {"img_resolution": 16, "img_channels": 3, "channel_base": 256, "channel_max": 16}


@pytest.fixture
def networks():
    """G and D by configuration name: ``networks("stylegan3-t", c_dim=0)``."""

    def build(cfg, c_dim=0):
        torch.manual_seed(3)
        extra = {"conv_kernel": 1, "use_radial_filters": True} if cfg == "stylegan3-r" else {}
        if cfg != "stylegan2":
            extra["num_layers"] = 5
        kind = StyleGAN2Generator if cfg == "stylegan2" else StyleGAN3Generator
        G = kind(z_dim=8, c_dim=c_dim, w_dim=8, **SMALL, **extra)
        D = Discriminator(c_dim=c_dim, **SMALL)
        for parameter in (*G.parameters(), *D.parameters()):
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
        return G.eval(), D.eval()

    return build
