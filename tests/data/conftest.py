"""Images for the tests of this folder."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


def _noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape or (16, 16, 3), np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """``noise(seed, *shape)``: random pixels, uint8, 16x16 RGB unless a shape is given."""
    return _noise


@pytest.fixture(scope="session")
def png() -> Callable[[np.ndarray], bytes]:
    """``png(pixels)``: the pixels as a PNG file."""
    return _png
