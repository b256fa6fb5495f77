"""What can be wrong with the look of a picture: blur, bars at its borders, a single colour."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

_UNIFORM = 8  # grey values that a row of a bar may differ in: JPEG leaves some
_COLOUR_STEP = 16  # width of a bin of a colour channel


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one picture.

    sharpness: standard deviation of its Laplacian, in grey values of 255.
    bars: share that uniform bars at two opposite borders take (letterbox, pillarbox); what is
        uniform at all four borders is a background, not bars.
    one_colour: share of the pixels of its most common colour, of 4,096.
    """

    sharpness: float
    bars: float
    one_colour: float


def quality(picture: Image.Image) -> Quality:
    """Measure a picture of mode RGB or L."""
    grey = np.asarray(picture.convert("L"), np.int16)
    return Quality(
        round(_sharpness(grey), 4),
        round(_bars(grey), 4),
        round(_one_colour(np.asarray(picture.convert("RGB"))), 4),
    )


def _sharpness(grey: np.ndarray) -> float:
    if min(grey.shape) < 3:
        return 0.0
    across = grey[1:-1, :-2] + grey[1:-1, 2:]
    down = grey[:-2, 1:-1] + grey[2:, 1:-1]
    return float(np.std(across + down - 4 * grey[1:-1, 1:-1]))


def _bars(grey: np.ndarray) -> float:
    letterbox, pillarbox = _opposite_bars(grey), _opposite_bars(grey.T)
    return 0.0 if letterbox and pillarbox else max(letterbox, pillarbox)


def _opposite_bars(grey: np.ndarray) -> float:
    """Share of the rows in two bars, at the top and at the bottom; 0: not at both."""
    top, bottom = _bar(grey), _bar(grey[::-1])
    return (top + bottom) / len(grey) if top and bottom else 0.0


def _bar(grey: np.ndarray) -> int:
    """Rows from the first on that are uniform, and as bright as the first."""
    is_bar = (np.ptp(grey, axis=1) <= _UNIFORM) & (abs(grey[:, 0] - grey[0, 0]) <= _UNIFORM)
    return int(np.argmin(is_bar)) if not is_bar.all() else len(grey)


def _one_colour(pixels: np.ndarray) -> float:
    bins = (pixels // _COLOUR_STEP).astype(np.int32)
    codes = (bins[..., 0] * 256 + bins[..., 1] * 16 + bins[..., 2]).ravel()
    return float(np.bincount(codes).max() / codes.size)
