"""A small packaged generator with random weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sg3flow.networks import Discriminator, StyleGAN3Generator

_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}


@pytest.fixture(scope="session")
def make_networks() -> Callable[..., tuple[StyleGAN3Generator, Discriminator]]:
    """Makes a seeded pair of networks of 16 x 16 pixels."""

    def make(c_dim: int = 0, seed: int = 0):
        torch.manual_seed(seed)
        G = StyleGAN3Generator(z_dim=16, c_dim=c_dim, w_dim=16, **_SIZES)
        D = Discriminator(c_dim=c_dim, **_SIZES)
        return G.eval().requires_grad_(False), D.eval().requires_grad_(False)

    return make


@pytest.fixture
def make_package(make_networks, tmp_path: Path):
    """Packages a generator of so many classes into a folder; gives the package and the network."""
    from sg3flow.serving.package import package_generator

    def make(c_dim: int = 0):
        G, _ = make_networks(c_dim)
        names = ["cat", "dog", "wild"][:c_dim]
        training_set = {"name": "toy", "licence": "CC0", "class_names": names}
        package = package_generator(
            G,
            tmp_path / f"package{c_dim}",
            training_set=training_set,
            metrics={"fd_random1k_full": {"value": 1.5}},
            snapshot_sha256="ab" * 32,
        )
        return package, G

    return make
