"""The text of errors."""

import datetime

import pytest

from sg3flow.errors import ConfigError, bounded_message, cut, described, nearest


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (5, "5"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        (2**128, "an integer of 39 digits"),
        pytest.param(-(2**20000), "an integer of 6021 digits", id="long"),
        ("a", "'a'"),
        ("a" * 61, f"'{'a' * 60}… (61 characters)'"),
        ([1, [2]], "a list of 2"),
        ({"a": 1}, "a dict of 1"),
        (datetime.date(2026, 1, 2), "a date"),
    ],
)
def test_a_value_is_described_in_a_few_words(value, words):
    assert described(value) == words


def test_a_list_that_repeats_itself_is_never_printed():
    value = ["x"] * 9
    for _ in range(4):  # 500,000 characters as text
        value = [value] * 9
    assert described(value) == "a list of 9"


def test_a_long_message_keeps_its_start_and_its_end():
    text = "what is wrong: " + "x" * 10**6 + "; the next step"
    for message in (bounded_message(text), str(ConfigError(text))):
        assert len(message) < 1010 and " … " in message
        assert message.startswith("what is wrong: xx") and message.endswith("xx; the next step")
    assert str(ConfigError("short")) == cut("short") == "short"
    assert str(ConfigError("no file \udcff.png")) == r"no file \udcff.png"


def test_no_name_is_near_a_text_of_a_million_characters():
    assert nearest("gama", ["gamma"]) == " (did you mean 'gamma'?)"
    assert nearest("gamma" * 200_000, ["gamma"]) == ""
