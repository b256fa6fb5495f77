"""Small networks, and the golden ones with their public weights."""

import numpy as np
import pytest
import torch

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

SIZES = {"z_dim": 32, "w_dim": 32, "img_resolution": 32, "img_channels": 3}
CAPACITY = {"channel_base": 1024, "channel_max": 32}
CONFIGURATIONS = {
    "stylegan3-t": (StyleGAN3Generator, {**CAPACITY, "magnitude_ema_beta": 0.5 ** (8 / 20000)}),
    "stylegan3-r": (
        StyleGAN3Generator,
        {
            "channel_base": 2048,
            "channel_max": 64,
            "conv_kernel": 1,
            "use_radial_filters": True,
            "magnitude_ema_beta": 0.5 ** (8 / 20000),
        },
    ),
    "stylegan2": (StyleGAN2Generator, CAPACITY),
    "stylegan2-shapes": (
        StyleGAN2Generator,
        {"channel_base": 512, "channel_max": 64, "conv_clamp": 1.5},
    ),
}


def load_weights(network, arrays, prefix):
    """Fills every parameter and buffer by name; a missing or extra name is an error."""
    state = {k[len(prefix) :]: torch.from_numpy(v) for k, v in arrays.items() if k[:2] == prefix}
    network.load_state_dict(state, strict=True)
    return network


@pytest.fixture
def golden_generator(golden):
    def load(cfg, c_dim):
        suffix = "" if cfg.endswith("shapes") else f"-c{c_dim}"
        with np.load(golden / f"generator-{cfg}{suffix}.npz") as file:
            arrays = dict(file)
        cls, options = CONFIGURATIONS[cfg]
        return load_weights(cls(c_dim=c_dim, **SIZES, **options), arrays, "G."), arrays

    return load


@pytest.fixture
def golden_discriminator(golden):
    def load(name, **options):
        with np.load(golden / f"discriminator-{name}.npz") as file:
            arrays = dict(file)
        c_dim = arrays["c"].shape[1] if "c" in arrays else 0
        network = Discriminator(c_dim, 32, 3, **(options or CAPACITY))
        return load_weights(network, arrays, "D."), arrays

    return load


@pytest.fixture
def relative_error():
    """max|a - b| / max|b|, after checking the shapes."""

    def error(found, expected):
        found = found.detach().numpy()
        assert found.shape == expected.shape
        largest = np.abs(expected).max()
        return float(np.abs(found - expected).max() / (largest if largest else 1))

    return error


@pytest.fixture
def small_generator():
    """A generator of a configuration with few channels and seeded weights."""

    def build(cfg, c_dim=0, **options):
        torch.manual_seed(0)
        cls, defaults = CONFIGURATIONS[cfg]
        arguments = {**SIZES, **defaults, "channel_base": 256, "channel_max": 8, **options}
        return cls(c_dim=c_dim, **arguments)

    return build
