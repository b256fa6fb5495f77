"""A small sheet that shows what a generator draws, for those who choose between versions."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image as PillowImage

from sg3flow.rendering.grid import seed_sheet
from sg3flow.rendering.images import Generator, Image, Look, render_image

_SEEDS = range(12)
_MAX_SIDE = 256


def sample_sheet(G: Generator, class_names: Sequence[str] = ()) -> Image:
    """Seeds 0 to 11 without truncation, [H, W, 3]; the classes of a labelled network come in turn.

    Large pictures are shown at 256 pixels.

    Raises:
        CheckpointError: the network draws values that are not finite.
    """
    classes = [seed % G.c_dim if G.c_dim else None for seed in _SEEDS]
    labels = [_label(seed, index, class_names) for seed, index in zip(_SEEDS, classes, strict=True)]
    side = min(G.img_resolution, _MAX_SIDE)
    return seed_sheet(_small_pictures(G, classes, side), labels, side)


def _small_pictures(G: Generator, classes: Sequence[int | None], side: int) -> Iterator[Image]:
    for seed, index in zip(_SEEDS, classes, strict=True):
        yield resized(render_image(G, seed, Look(), index), side)


def resized(image: Image, side: int) -> Image:
    """A picture [H, W, 1 or 3] as [side, side, 1 or 3]; one that has this side is left alone."""
    if image.shape[0] == side:
        return image
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    scaled = np.asarray(picture.resize((side, side), PillowImage.Resampling.LANCZOS))
    return scaled.reshape(side, side, image.shape[2])


def _label(seed: int, index: int | None, names: Sequence[str]) -> str:
    if index is None:
        return str(seed)
    return f"{seed} {names[index] if index < len(names) else index}"
