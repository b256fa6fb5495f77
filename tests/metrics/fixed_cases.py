"""Features and images of formulas: the peers' numbers of them are kept in the tests."""

import numpy as np
from numpy.typing import NDArray

SUBSETS, SIZE, SEED = 5, 30, 2020  # of the kernel distance
IMAGE_SIZES = (
    (512, 512),
    (256, 256),
    (1024, 1024),
    (299, 299),
    (298, 300),
    (64, 64),
    (600, 299),
    (400, 17),
    (33, 700),
    (8, 8),
    (5, 3),
    (1, 2),
)
# Row and column of the pixels of the network's input that are kept.
_KEPT = ((0, 0), (0, 298), (37, 201), (149, 150), (298, 1), (298, 298))


def formula_features(offset: float, count: int) -> NDArray[np.float32]:
    """Positive features of 12 dimensions, float32 ``[count, 12]``."""
    i, j = np.mgrid[1 : count + 1, 1:13].astype(np.float64)
    waves = np.sin(i * np.sqrt(j + 1) + offset) + 0.5 * np.cos(0.7 * i * j) + 0.2 * offset
    return np.abs(waves).astype(np.float32)


def formula_image(number: int) -> NDArray[np.uint8]:
    """One of the 12 images, uint8 ``[H, W, 3]``: fine patterns, so that aliasing shows."""
    height, width = IMAGE_SIZES[number]
    y, x, c = np.mgrid[:height, :width, :3]
    values = x * x * (number + 3) + y * y * (c + 5) + 31 * x * y + 1000 * c
    return ((values // 16) % 256).astype(np.uint8)


def kept_values(prepared: NDArray[np.float32]) -> list[float]:
    """What is kept of the input of the network ``[3, 299, 299]``: 6 pixels and 2 means."""
    pixels = [float(prepared[(row + column) % 3, row, column]) for row, column in _KEPT]
    values = prepared.astype(np.float64)
    ramp = np.linspace(-1, 1, values.size).reshape(values.shape)
    return [*pixels, float((values * ramp).mean()), float(np.square(values).mean())]
