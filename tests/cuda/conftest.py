"""Layers of the networks to test with, and the stand-ins for a GPU."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # modules beside the tests
import stand_in
from host_kernels import HostKernels

from sg3flow.ops import backend_name
from sg3flow.precision import computing

_UP2, _UP4, _RADIAL = (12,), (24,), (12, 12)
# (up, shape of fu, down, shape of fd, padding): the layers of T and R, from their schedules ...
LAYERS = {
    "t": (2, _UP2, 2, _UP2, (9, 8, 9, 8)),
    "t-up4": (4, _UP4, 2, _UP2, (-6, -9, -6, -9)),
    "t-last": (2, _UP2, 2, _UP2, (-11, -12, -11, -12)),
    "r": (2, _UP2, 2, _RADIAL, (11, 10, 11, 10)),
    "r-up4": (4, _UP4, 2, _RADIAL, (-2, -5, -2, -5)),
    # ... with every phase of the padding ...
    "odd": (2, _UP2, 2, _UP2, (10, 3, -4, 7)),
    "odd-up4": (4, _UP4, 2, _UP2, (7, 2, -5, 9)),
    "odd-radial": (4, _UP4, 2, _RADIAL, (5, 2, -3, 4)),
}
# ... and what only the generic kernel computes
OTHERS = {
    "down4": (1, None, 4, _UP4, (3, 30, 28, 2)),
    "up3": (3, (6,), 2, (5, 4), (2, 4, 3, 3)),
    "identity": (1, None, 1, None, (0, 0, 0, 0)),
    "padded": (1, (3,), 1, None, (2, -1, 3, 0)),
    "lone taps": (2, (1,), 3, (3, 3), (1, 2, 0, 3)),
    "cropped": (2, _UP2, 2, (7,), (-13, -12, -14, -11)),
}


def draw(*shape, seed=0, dtype=torch.float32, device="cpu"):
    """Normal numbers, equal for every dtype and device up to rounding."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(device=device, dtype=dtype)


def _filter_of(shape, seed, device):
    return (
        None if shape is None else draw(*shape, seed=seed, device=device) / math.prod(shape) ** 0.5
    )


def make_layer(kind, size, dtype=torch.float32, device="cpu", planes=(2, 3)):
    """(x, fu, fd, b, options) of a layer; the options are those of filtered_lrelu."""
    up, up_shape, down, down_shape, padding = {**LAYERS, **OTHERS}[kind]
    x = draw(*planes, *size, dtype=dtype, device=device)
    b = draw(planes[1], seed=1, dtype=dtype, device=device)
    fu, fd = _filter_of(up_shape, 2, device), _filter_of(down_shape, 3, device)
    return x, fu, fd, b, {"up": (up, up), "down": (down, down), "padding": padding}


@pytest.fixture
def numbers():
    return draw


@pytest.fixture
def layer():
    return make_layer


@pytest.fixture(params=LAYERS)
def layer_kind(request) -> str:
    return request.param


@pytest.fixture(params=[*LAYERS, *OTHERS])
def any_kind(request) -> str:
    return request.param


@pytest.fixture(params=[kind for kind, values in LAYERS.items() if values[3] != _RADIAL])
def separable_kind(request) -> str:
    return request.param


@pytest.fixture
def plain(monkeypatch):
    """Calls a function with plain PyTorch."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setenv("SG3FLOW_OPS", "torch")
            return function(*args, **options)

    return call


@pytest.fixture
def card(monkeypatch):
    """A GPU with kernels; every test uses them unless it takes `plain`."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setenv("SG3FLOW_OPS", "cuda")
    backend_name("cuda")
    with computing():  # else plain PyTorch, to which they are compared, convolves in TF32
        yield


@pytest.fixture(scope="session")
def whole_library() -> Path:
    """The stand-ins for a GPU, with its kernels."""
    return stand_in.build(whole=True)


@pytest.fixture
def gpu(tmp_path) -> Iterator[stand_in.StandIn]:
    """A GPU of compute capability 9.0 and one of 8.0 that check their launches and run none."""
    library = stand_in.StandIn(stand_in.build(whole=False))
    with stand_in.installed(library, tmp_path / "kernels", 90, 80) as found:
        yield found


@pytest.fixture(scope="session")
def host_kernels(whole_library) -> HostKernels:
    return HostKernels(whole_library)
