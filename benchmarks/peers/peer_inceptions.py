"""The peers' own Inceptions with given weights; none of them downloads anything."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import outside  # noqa: F401
import pytorch_fid.inception
import torch
from cleanfid.inception_torchscript import InceptionV3W


@contextmanager
def saved_weights(weights: dict[str, torch.Tensor]) -> Iterator[Path]:
    """The weights as a file, as torch-fidelity and torchmetrics take them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(weights, path)
        yield path


def pytorch_network(weights: dict[str, torch.Tensor], **settings: bool) -> torch.nn.Module:
    """pytorch-fid's network, in its own architecture."""
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: weights
    return pytorch_fid.inception.InceptionV3(**settings).eval()


class _AsTorchScript(torch.nn.Module):
    """The form of the TorchScript file that clean-fid downloads: its network is `layers`."""

    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class _Features(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0].flatten(1)


def clean_network(weights: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """clean-fid's wrapper around a TorchScript file with these weights.

    The real file is a download. In its place stands a trace of pytorch-fid's architecture, which is
    a port of the same graph; reading, resizing, scaling and statistics are clean-fid's own.
    """
    network = _Features(pytorch_network(weights, resize_input=False, normalize_input=False))
    layers = torch.jit.trace(network, torch.zeros(2, 3, 299, 299))
    with tempfile.TemporaryDirectory() as folder:
        scripted = torch.jit.trace(_AsTorchScript(layers), torch.zeros(2, 3, 299, 299))
        scripted.save(str(Path(folder) / "inception-2015-12-05.pt"))
        return InceptionV3W(folder, download=False).eval()
