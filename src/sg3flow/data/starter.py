"""The starter set: animal faces drawn by this project, in AFHQ's layout.

It exists so that the whole pipeline runs anywhere in minutes, without a download. Every byte is
fixed by the arguments: the drawing uses exact arithmetic only (see ``animal_shapes.py``), and the
PNGs are stored without compression, whose result would differ between zlib versions.
"""

from pathlib import Path
from typing import Any

from sg3flow.data.animal_faces import draw_face
from sg3flow.data.png import encode_png
from sg3flow.errors import ConfigError
from sg3flow.progress import tracked

CLASSES = ("cat", "dog", "wild")

# Every tenth picture of a class is for validation, whatever the number of pictures.
_VAL_EVERY = 10


def draw_starter(dest: Path, *, images: int, resolution: int, seed: int) -> dict[str, Any]:
    """Draw the starter set below ``dest``: ``starter/{train,val}/{cat,dog,wild}/*.png``.

    A picture depends on the seed, its class and its number alone: a larger set holds the pictures
    of a smaller one, in the same split.

    Args:
        images: pictures in all, shared equally by the classes.
        resolution: side in pixels.

    Returns:
        Number of pictures by folder, say ``{"starter/train/cat": 180, ...}``.

    Raises:
        ConfigError: fewer pictures than classes, or a resolution below 16.
    """
    if images < len(CLASSES) or resolution < 16:
        raise ConfigError(
            f"the starter set needs at least {len(CLASSES)} images of at least 16 px, "
            f"not {images} of {resolution} px"
        )
    plan = [(number % len(CLASSES), number // len(CLASSES)) for number in range(images)]
    counts: dict[str, int] = {}
    for class_index, index in tracked(plan, "drawing the starter set", images):
        folder = _folder(class_index, index)
        (dest / folder).mkdir(parents=True, exist_ok=True)
        pixels = draw_face(CLASSES[class_index], resolution, (seed, class_index, index))
        name = f"starter_{CLASSES[class_index]}_{index:06d}.png"
        (dest / folder / name).write_bytes(encode_png(pixels))
        counts[folder] = counts.get(folder, 0) + 1
    return dict(sorted(counts.items()))


def _folder(class_index: int, index: int) -> str:
    split = "val" if index % _VAL_EVERY == _VAL_EVERY - 1 else "train"
    return f"starter/{split}/{CLASSES[class_index]}"
