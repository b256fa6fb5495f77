"""Made-up weights of Inception, by one rule for every tool, and the images of the comparison.

The public weights are a download. With the same made-up weights in each tool's own architecture, a
difference in layers, pools, resizing or statistics shows as it would with the public ones.
"""

import math
import zlib
from pathlib import Path

import torch
from PIL import Image

from sg3flow.data.starter.drawing import draw_face
from sg3flow.metrics.features.inception import Inception

SIDE = 512  # as AFHQ
_CLASSES = ("cat", "dog", "wild")


def inception_weights() -> dict[str, torch.Tensor]:
    """A state dict in the names of the public file; each tensor depends on its name only."""
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in Inception().state_dict().items()}
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name: str, shape: list[int]) -> torch.Tensor:
    """He's scale, so that no layer's output vanishes; statistics near 0 and 1."""
    t = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return 1 + 0.2 * t.abs()
    if name.endswith(("running_mean", "bias")):
        return 0.1 * t
    if name.endswith("bn.weight"):
        return 1 + 0.1 * t
    return t * math.sqrt(2 / math.prod(shape[1:]))


def draw_images(folder: Path, count: int, seed: int, side: int = SIDE) -> Path:
    """Draw ``count`` faces of the starter set as PNG files; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if not path.exists():
            face = draw_face(_CLASSES[number % 3], side, (seed, number % 3, number // 3))
            Image.fromarray(face).save(path.with_suffix(".part"), format="PNG")
            path.with_suffix(".part").rename(path)
    return folder
