"""Small generators of each architecture whose every weight and buffer counts."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

SIZES = {"z_dim": 16, "w_dim": 16, "img_resolution": 16, "img_channels": 3}
FEW_LAYERS = {"num_layers": 4, "channel_base": 256, "channel_max": 16}
ARCHITECTURES = {
    "t": (StyleGAN3Generator, FEW_LAYERS),
    "r": (StyleGAN3Generator, {**FEW_LAYERS, "conv_kernel": 1, "use_radial_filters": True}),
    "stylegan2": (StyleGAN2Generator, {"channel_base": 256, "channel_max": 16}),
}
# Left as they are: constants of the architecture.
_FIXED = ("up_filter", "down_filter", "resample_filter", "transform", "freqs", "phases")


def _randomized(network: nn.Module) -> nn.Module:
    """With weights as a training leaves them: nothing is 0 or 1 as it was initialized."""
    random = torch.Generator().manual_seed(1)
    state = network.state_dict()
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        if last == "magnitude_ema":
            tensor.copy_(0.5 + torch.rand([], generator=random))
        elif last not in _FIXED:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=random))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_network() -> Callable[..., nn.Module]:
    """Makes a seeded generator: ``t``, ``r`` or ``stylegan2``, with its arguments."""

    def make(kind: str, c_dim: int = 0, **options) -> nn.Module:
        torch.manual_seed(0)
        cls, defaults = ARCHITECTURES[kind]
        return _randomized(cls(c_dim=c_dim, **{**SIZES, **defaults, **options}))

    return make


@pytest.fixture(scope="session")
def network_file(make_network, tmp_path_factory) -> Callable[..., str]:
    """Writes a snapshot of a generator of `make_network`; its path."""
    from sg3flow.checkpoints import save_snapshot

    def write(kind: str, c_dim: int = 0, **options) -> str:
        path = tmp_path_factory.mktemp(kind) / "network-snapshot-000001.pkl"
        G = make_network(kind, c_dim, **options)
        channels = {"channel_base": 256, "channel_max": 16}
        D = Discriminator(c_dim, G.img_resolution, G.img_channels, **channels)
        names = ["a cat", "a dog", "wild"][:c_dim]
        described = {"name": "animals", "label_dim": c_dim, "class_names": names, "licence": "CC0"}
        save_snapshot(
            path,
            G=G, D=D, G_ema=G, augment_p=0.0, training_set=described, progress={"nimg": 1000},
        )  # fmt: skip
        return str(path)

    return write
