"""Sheets: sizes, places of the pictures, labels."""

import numpy as np
import pytest

from sg3flow.errors import ConfigError
from sg3flow.rendering.grid import enlarged, seed_sheet, table_sheet


def _flat(value: int, side: int = 16, channels: int = 3):
    return np.full((side, side, channels), value, np.uint8)


def _holds(sheet, value: int) -> bool:
    return int((sheet == value).all(axis=2).sum()) >= 128 * 128


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num", [1, 5, 24])
def test_a_seed_sheet_shows_every_picture_enlarged_with_ink_below(num, channels):
    values = [60 + 5 * i for i in range(num)]
    images = [_flat(value, channels=channels) for value in values]
    sheet = seed_sheet(images, [f"seed {i}" for i in range(num)], 16)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert all(_holds(sheet, value) for value in values)
    assert (sheet < 50).any()


def test_the_number_of_columns_can_be_set():
    images, labels = [_flat(100)] * 6, [str(i) for i in range(6)]
    narrow, wide = seed_sheet(images, labels, 16, 1), seed_sheet(images, labels, 16, 6)
    assert narrow.shape[0] > 5 * narrow.shape[1] and wide.shape[1] > 4 * wide.shape[0]
    assert seed_sheet(images, labels, 16, 1000).shape == wide.shape


def test_a_label_too_long_for_its_picture_is_cut():
    short = seed_sheet([_flat(100)] * 2, ["a", "b"], 16)
    long = seed_sheet([_flat(100)] * 2, ["a" * 200, "b"], 16)
    assert short.shape == long.shape


def test_a_table_has_rows_and_columns_in_order():
    images = [_flat(value) for value in (60, 90, 120, 150, 180, 210)]
    labels = ["seed 1", "seed 22", "seed 4294967295"]
    sheet = table_sheet(images, labels, ["psi 0", "psi 1"], 16)
    where = {
        value: tuple(np.median(np.argwhere((sheet == value).all(axis=2)), axis=0))
        for value in (60, 90, 120, 150, 180, 210)
    }
    assert where[60][0] + 100 < where[120][0] < where[180][0] - 100
    assert where[60][1] + 100 < where[90][1]
    np.testing.assert_allclose(where[60][0], where[90][0], atol=1)
    np.testing.assert_allclose(where[60][1], where[120][1], atol=1)


def test_a_sheet_too_large_is_refused_before_anything_is_drawn():
    def images():
        raise AssertionError("drawn")
        yield

    labels = ["a"] * 15_000
    with pytest.raises(ConfigError, match=r"pixels is too large .*name fewer seeds"):
        seed_sheet(images(), labels, 16)
    with pytest.raises(ConfigError, match="too large"):
        table_sheet(images(), labels, ["psi 1"], 16)


def test_enlarging_repeats_pixels():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    big = enlarged(image, 5)
    assert big.shape == (6, 6, 3)
    np.testing.assert_array_equal(big[::3, ::3, 0], image[:, :, 0])
    assert enlarged(_flat(1, side=512), 128).shape == (512, 512, 3)
