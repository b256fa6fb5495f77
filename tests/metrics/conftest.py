"""Drawn pictures, packed sets and tiny networks for the tests of the metrics."""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from sg3flow.checkpoints import save_snapshot
from sg3flow.data.archive import PackedSet
from sg3flow.metrics.features.inception import Inception
from sg3flow.metrics.features.vgg import VGG16
from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for every test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SG3FLOW_CACHE", str(folder))
    return folder


def _draw_faces(count: int, seed: int, size: int = 64) -> torch.Tensor:
    """Discs with two eyes on a shaded ground, uint8 [N, 3, size, size]."""
    random = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    draw = torch.rand(count, 9, 1, 1, generator=random)
    cx, cy, radius = draw[:, 0] - 0.5, draw[:, 1] - 0.5, 0.3 + 0.4 * draw[:, 2]
    face = torch.sigmoid((radius - torch.hypot(x - cx, y - cy)) * 30)
    eyes = torch.zeros_like(face)
    for side in (-0.15, 0.15):
        eyes += torch.sigmoid((0.12 - torch.hypot(x - cx - side, y - cy + 0.1)) * 40)
    img = draw[:, 3:6] * face[:, None] + draw[:, 6:9] * (1 - face)[:, None] * (0.5 + 0.5 * x)
    return ((img * (1 - eyes)[:, None]).clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="session")
def draw_faces() -> Callable[..., torch.Tensor]:
    """``draw_faces(count, seed, size=64)``."""
    return _draw_faces


@pytest.fixture(scope="session")
def blur() -> Callable[[torch.Tensor, int], torch.Tensor]:
    """``blur(images, kernel)``: a mean over an odd window."""

    def apply(images: torch.Tensor, kernel: int) -> torch.Tensor:
        mean = functional.avg_pool2d(
            images.float(), kernel, 1, kernel // 2, count_include_pad=False
        )
        return mean.to(torch.uint8)

    return apply


def _pack(folder: Path, images: torch.Tensor, labels: list[int] | None) -> PackedSet:
    rows = []
    (folder / "00000").mkdir(parents=True)
    for index, image in enumerate(images):
        name = f"00000/img{index:08d}.png"
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze()).save(folder / name, compress_level=0)
        rows.append([name, labels[index] if labels else 0])
    (folder / "dataset.json").write_text(json.dumps({"labels": rows if labels else None}))
    return PackedSet(folder)


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., PackedSet]:
    """``pack(images, name="packed", labels=None)``: a packed set in a folder."""
    return lambda images, name="packed", labels=None: _pack(tmp_path / name, images, labels)


@pytest.fixture
def small_set(pack: Callable[..., PackedSet]) -> PackedSet:
    """48 pictures of 32 pixels without labels."""
    return pack(_draw_faces(48, seed=0, size=32))


def _generator(seed: int, kind: str, c_dim: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    arguments = {"z_dim": 8, "c_dim": c_dim, "w_dim": 8, "img_resolution": 32, "img_channels": 3}
    if kind == "stylegan2":
        return StyleGAN2Generator(**arguments, channel_base=128, channel_max=8).eval()
    return StyleGAN3Generator(**arguments, channel_base=256, channel_max=8, num_layers=4).eval()


@pytest.fixture(scope="session")
def tiny_generator() -> Callable[..., torch.nn.Module]:
    """``tiny_generator(seed=0, kind="stylegan3", c_dim=0)`` at 32 pixels."""
    return lambda seed=0, kind="stylegan3", c_dim=0: _generator(seed, kind, c_dim)


@pytest.fixture
def save_tiny(tmp_path: Path) -> Callable[..., Path]:
    """``save_tiny(kimg, G, **described)``: a snapshot in the folder ``run`` of the test.

    ``described`` goes into the description of its training set.
    """
    sizes = {"img_resolution": 32, "img_channels": 3, "channel_base": 64, "channel_max": 4}

    def save(kimg: int, G: torch.nn.Module, **described: object) -> Path:
        D = Discriminator(c_dim=G.c_dim, **sizes)
        path = tmp_path / "run" / f"network-snapshot-{kimg:06d}.pkl"
        training_set = {"name": "faces", "resolution": 32, "channels": 3, "label_dim": 0}
        training_set |= {"num_images": 48, "digest": "0" * 64, "mirror": False} | described
        progress = {"nimg": kimg * 1000}
        save_snapshot(
            path, G=G, D=D, G_ema=G, augment_p=0.0, training_set=training_set, progress=progress
        )
        return path

    return save


def _weight_by_rule(name: str, shape: list[int]) -> torch.Tensor:
    t = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return 1 + 0.2 * t.abs()
    if name.endswith(("running_mean", "bias")):
        return 0.1 * t
    if name.endswith("bn.weight"):
        return 1 + 0.1 * t
    return t * math.sqrt(2 / math.prod(shape[1:]))


@pytest.fixture(scope="session")
def inception_state() -> dict[str, torch.Tensor]:
    """Weights of the Inception made by a rule that other implementations know."""
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in Inception().state_dict().items()}
    return {name: _weight_by_rule(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def vgg_state() -> dict[str, torch.Tensor]:
    """Weights of VGG16's convolutions by the same rule."""
    with torch.device("meta"):
        shapes = {n: list(t.shape) for n, t in VGG16(fully_connected=False).state_dict().items()}
    return {name: _weight_by_rule(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def lpips_heads() -> list[torch.Tensor]:
    """Heads of LPIPS by the same rule, none negative."""
    widths = (64, 128, 256, 512, 512)
    return [_weight_by_rule(f"lin{i}", [1, w, 1, 1]).abs() for i, w in enumerate(widths)]
