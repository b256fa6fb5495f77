"""A picture of generated pictures over the training pictures nearest to them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GAP = 4
_PAPER = 255


def draw_closest_pairs(
    generated: Sequence[NDArray[np.uint8]], training: Sequence[NDArray[np.uint8]]
) -> Image.Image:
    """Generated pictures in the upper row, each with its training picture below, nearest first.

    Args:
        generated, training: as many, uint8 ``[H, W, 1 or 3]``.
    """
    pairs = [(_rgb(upper), _rgb(lower)) for upper, lower in zip(generated, training, strict=True)]
    width = max(image.width for pair in pairs for image in pair) + _GAP
    height = max(image.height for pair in pairs for image in pair) + _GAP
    size = (len(pairs) * width + _GAP, 2 * height + _GAP)
    sheet = Image.new("RGB", size, (_PAPER, _PAPER, _PAPER))
    for column, pair in enumerate(pairs):
        for row, image in enumerate(pair):
            sheet.paste(image, (_GAP + column * width, _GAP + row * height))
    return sheet


def _rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
