"""The project's own PNG writer: any decoder gives the pixels back, and the bytes are fixed."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sg3flow.data.packed_form import encode_png

# Of a color image of two stored blocks; the bytes depend on no library.
_PINNED = "f2ae78af"


def draw(*shape: int) -> np.ndarray:
    return np.random.RandomState(sum(shape)).randint(0, 256, shape).astype(np.uint8)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 200), st.sampled_from([(), (1,), (3,)]))
def test_files_give_back_the_pixels(height: int, width: int, channels: tuple[int, ...]) -> None:
    pixels = draw(height, width, *channels)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.mode == ("RGB" if channels == (3,) else "L")
        np.testing.assert_array_equal(np.asarray(image), pixels.reshape(np.shape(image)))


def test_a_view_that_is_not_contiguous_is_written_as_it_looks() -> None:
    pixels = draw(40, 30, 3)[::-1, ::2]
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_fast_decoder_reads_them() -> None:
    pyspng = pytest.importorskip("pyspng")
    pixels = draw(256, 256, 3)
    np.testing.assert_array_equal(pyspng.load(encode_png(pixels)), pixels)


def test_bytes_are_fixed() -> None:
    pixels = np.arange(200 * 160 * 3, dtype=np.uint32).astype(np.uint8).reshape(200, 160, 3)
    assert hashlib.sha256(encode_png(pixels)).hexdigest()[:8] == _PINNED
