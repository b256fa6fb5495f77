"""Small generators with random weights."""

from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner

from sg3flow.checkpoints import save_snapshot
from sg3flow.cli.stage_commands import render_app
from sg3flow.networks import Discriminator, StyleGAN3Generator

_SIZES = {"img_resolution": 16, "channel_base": 512, "channel_max": 16}


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


@pytest.fixture(scope="session")
def network_file(make_generator, tmp_path_factory) -> Callable[..., str]:
    """Saves the generator of ``make_generator`` with a ``w_avg``; gives the snapshot's path."""
    folder = tmp_path_factory.mktemp("snapshots")

    def save(c_dim: int = 0, **more):
        path = folder / f"{c_dim} {more}.pkl"
        if not path.exists():
            G = make_generator(c_dim, **more)
            G.mapping.w_avg.copy_(torch.linspace(-1, 1, 16))
            D = Discriminator(c_dim=c_dim, img_channels=G.img_channels, **_SIZES)
            names = ["cat", "dog", "wild"][:c_dim]
            described = {"label_dim": c_dim, "class_names": names}
            networks = {"G": G, "D": D, "G_ema": G, "augment_p": 0.0}
            save_snapshot(path, **networks, training_set=described, progress={"nimg": 0})
        return str(path)

    return save


@pytest.fixture
def render(tmp_path):
    """Runs a render command on the CPU that writes into ``tmp_path / "out"``."""

    def run(command, network, *options, code=0, outdir=True):
        place = ("--outdir", tmp_path / "out") if outdir else ()
        given = [command, "--network", network, "--device", "cpu", *place, *options]
        result = CliRunner().invoke(render_app, list(map(str, given)))
        assert result.exit_code == code, result.output
        if code:
            assert len(result.stderr.strip().splitlines()) == 1
        return result

    return run
