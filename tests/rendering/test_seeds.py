"""Seeds as people write them, and the latents they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import ConfigError
from sg3flow.rendering.seeds import MAX_SEED, parse_seeds, seed_latent


def test_ranges_and_single_seeds_keep_their_order():
    assert parse_seeds("0,3-7,2") == [0, 3, 4, 5, 6, 7, 2]
    assert parse_seeds(" 1 , 2 - 3 ") == [1, 2, 3]
    assert parse_seeds(str(MAX_SEED)) == [MAX_SEED]


@given(st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=20))
def test_any_list_of_seeds_comes_back(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == seeds


@given(st.text(max_size=30))
def test_any_text_is_seeds_or_a_worded_error(text):
    try:
        seeds = parse_seeds(text)
    except ConfigError as error:
        assert "seed" in str(error)
    else:
        assert seeds and all(0 <= seed <= MAX_SEED for seed in seeds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as 0,3-7,2"),
        ("1,,2", "such as 0,3-7,2"),
        ("-1", "such as 0,3-7,2"),
        ("1.5", "such as 0,3-7,2"),
        ("a", "such as 0,3-7,2"),
        ("7-3", "is descending"),
        (str(MAX_SEED + 1), str(MAX_SEED)),
        (f"0-{MAX_SEED}", "more than 100000"),
    ],
)
def test_what_is_no_list_of_seeds_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_seeds(text)


def test_the_latent_of_a_seed_is_the_public_one():
    latent = seed_latent(2, 512)
    assert latent.shape == (1, 512)
    # First numbers of numpy.random.RandomState(2).randn, frozen since NumPy 1.0.
    expected = [-0.41675785, -0.05626683, -2.1361961, 1.64027081]
    np.testing.assert_allclose(latent[0, :4], expected, atol=1e-8)
