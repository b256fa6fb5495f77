"""Grids of sample pictures: the same latents and the same real pictures through a whole run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sg3flow.config import parse_pair
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import ConfigError
from sg3flow.files import replaced_file
from sg3flow.networks.pictures import to_uint8


@dataclass(frozen=True)
class SampleGrid:
    """What the sample grids of a run show.

    Attributes:
        columns, rows: size of the grid in pictures.
        items: indices of the real pictures, row by row.
        z: latents [columns * rows, z_dim]; c: labels [columns * rows, c_dim].
    """

    columns: int
    rows: int
    items: list[int]
    z: torch.Tensor
    c: torch.Tensor


def grid_size(setting: str, resolution: int) -> tuple[int, int]:
    """Columns and rows: as set, ``8x4``, or as many as fit a picture of 7680 x 4320 pixels.

    Raises:
        ConfigError: not that form, or not within 1x1 and 64x64.
    """
    if not setting:
        columns = int(np.clip(7680 // resolution, 7, 32))
        return columns, int(np.clip(4320 // resolution, 4, 32))
    columns, rows = parse_pair(setting, "train.grid (columns x rows)")
    if not (1 <= columns <= 64 and 1 <= rows <= 64):
        raise ConfigError(f"train.grid must be within 1x1 and 64x64, not '{setting}'")
    return columns, rows


def choose_samples(items: TrainingSet, size: tuple[int, int], z_dim: int, seed: int) -> SampleGrid:
    """Draw the pictures and latents of a run's grids; with labels, one row a class."""
    columns, rows = size
    random = np.random.RandomState(seed)
    if items.label_dim == 0:
        order = random.permutation(len(items))
        chosen = [int(order[i % len(order)]) for i in range(columns * rows)]
    else:
        chosen = _rows_by_class(items, columns, rows, random)
    z = torch.from_numpy(random.randn(columns * rows, z_dim).astype(np.float32))
    c = torch.stack([items.label(i) for i in chosen])
    return SampleGrid(columns, rows, chosen, z, c)


def _rows_by_class(
    items: TrainingSet, columns: int, rows: int, random: np.random.RandomState
) -> list[int]:
    by_label: dict[tuple[float, ...], list[int]] = {}
    for i in range(len(items)):
        by_label.setdefault(tuple(items.label(i).tolist()), []).append(i)
    labels = sorted(by_label, reverse=True)  # one-hot: class 0 first
    chosen = []
    for row in range(rows):
        members = by_label[labels[row % len(labels)]]
        order = random.permutation(len(members))
        chosen += [members[order[i % len(order)]] for i in range(columns)]
    return chosen


def save_reals(path: Path, items: TrainingSet, grid: SampleGrid) -> None:
    """Write the grid of real pictures."""
    images = torch.stack([items[i][0] for i in grid.items])
    save_mosaic(path, images, grid.columns)


@torch.no_grad()
def save_fakes(path: Path, G: Any, grid: SampleGrid, batch: int, device: torch.device) -> None:
    """Write the grid of generated pictures."""
    images = []
    for z, c in zip(torch.split(grid.z, batch), torch.split(grid.c, batch), strict=True):
        img = G(z.to(device), c.to(device), noise_mode="const")
        images.append(to_uint8(img).cpu())
    save_mosaic(path, torch.cat(images), grid.columns)


def save_mosaic(path: Path, images: torch.Tensor, columns: int) -> None:
    """Write uint8 images [N, C, H, W] as one PNG, ``columns`` a row."""
    n, channels, height, width = images.shape
    rows = n // columns
    mosaic = images.reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    pixels = mosaic.reshape(rows * height, columns * width, channels).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    with replaced_file(path) as stream:
        picture.save(stream, format="PNG")
