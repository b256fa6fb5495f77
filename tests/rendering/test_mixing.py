"""Style mixing: which w a layer has, and layers as text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import ConfigError
from sg3flow.rendering.mixing import layers_text, mix_styles, parse_layers

ROWS = np.random.RandomState(0).randn(2, 5, 3).astype(np.float32)
COLUMNS = np.random.RandomState(1).randn(3, 5, 3).astype(np.float32)


def test_named_layers_come_from_the_column_and_the_others_from_the_row():
    mixed = mix_styles(ROWS, COLUMNS, (1, 4))
    assert mixed.shape == (2, 3, 5, 3) and mixed.dtype == np.float32
    for r, row in enumerate(ROWS):
        for c, column in enumerate(COLUMNS):
            for layer in range(5):
                expected = column if layer in (1, 4) else row
                np.testing.assert_array_equal(mixed[r, c, layer], expected[layer])


def test_no_layers_are_the_row_and_all_layers_the_column():
    for c in range(3):
        np.testing.assert_array_equal(mix_styles(ROWS, COLUMNS, ())[:, c], ROWS)
    for r in range(2):
        np.testing.assert_array_equal(mix_styles(ROWS, COLUMNS, range(5))[r], COLUMNS)


def test_what_was_given_is_not_changed():
    rows, columns = ROWS.copy(), COLUMNS.copy()
    mix_styles(rows, columns, (0, 1))[:] = 0
    assert np.array_equal(rows, ROWS) and np.array_equal(columns, COLUMNS)


@given(st.sets(st.integers(0, 4)))
def test_swapping_rows_columns_and_layers_is_the_transpose(layers):
    others = sorted(set(range(5)) - layers)
    mixed = mix_styles(ROWS, COLUMNS, sorted(layers))
    np.testing.assert_array_equal(mixed, mix_styles(COLUMNS, ROWS, others).swapaxes(0, 1))


@given(st.sets(st.integers(0, 30)))
def test_layers_are_read_as_they_are_written(layers):
    assert parse_layers(layers_text(layers), 31) == tuple(sorted(layers))


@given(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)).map(sorted), min_size=1))
def test_a_text_is_the_union_of_its_ranges(ranges):
    text = ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)
    expected = {layer for a, b in ranges for layer in range(a, b + 1)}
    assert parse_layers(text, 18) == tuple(sorted(expected))


@given(st.text(max_size=12))
def test_any_text_gives_layers_of_the_network_or_a_sentence(text):
    try:
        assert set(parse_layers(text, 7)) <= set(range(7))
    except ConfigError as error:
        assert "\n" not in str(error)


def test_words_and_the_shortest_text():
    assert parse_layers("all", 3) == (0, 1, 2) and parse_layers(" None ", 3) == ()
    assert layers_text([9, 4, 5, 6, 7, 4]) == "4-7,9" and layers_text([]) == "none"
    assert layers_text([0, 1]) == "0-1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as 4-7,9, all or none, not ''"),
        ("4-", "such as 4-7,9"),
        ("-1", "such as 4-7,9"),
        ("1,,2", "such as 4-7,9"),
        ("1.5", "such as 4-7,9"),
        ("²", "such as 4-7,9"),
        ("5-3", "descending; write 3-5"),
        ("7", "from 0 to 6, the layers of this network, not '7'"),
        ("0-999999999", "from 0 to 6"),
        ("9" * 40, "such as 4-7,9"),
        ("1," * 6000, "a text of 12000 letters"),
    ],
)
def test_wrong_layers_are_one_sentence(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_layers(text, 7)
    assert words in str(caught.value) and len(str(caught.value)) < 200
