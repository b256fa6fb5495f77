"""YAML within limits, which are lowered here: the texts themselves are harmless."""

import pytest

from sg3flow import yaml_text
from sg3flow.errors import ConfigError
from sg3flow.yaml_text import load_yaml, with_value

REPEATED = "a: &a [1, 2, 3]\nb: &b [*a, *a]\nc: [*b, *b]\n"  # values: 4, 9, 19, the keys, the whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [[[0]]]", "x.yaml, line 1: more than 3 values inside one another"),
        ("a:\n  b:\n    c:\n      d: 1", "x.yaml, line 4: more than 3 values inside one another"),
        ("a: 1\nb: [[0]]\nc: &c [1, *c]", "x.yaml, line 3: *c is inside the value that it repeats"),
        ("a: 1\nb: 123456789", "x.yaml, line 2: an integer of 9 digits; at most 8 are read"),
        ("a: -0xabcdef0", "x.yaml, line 1: an integer of 10 digits; at most 8 are read"),
        ("? 123456789\n: 1", "x.yaml, line 1: an integer of 9 digits; at most 8 are read"),
        ("a: " + "b" * 60, "x.yaml has 63 characters; at most 60 are read"),
    ],
)
def test_what_exceeds_a_limit_is_refused_before_it_is_built(monkeypatch, text, words):
    monkeypatch.setattr(yaml_text, "MAX_DEPTH", 3)
    monkeypatch.setattr(yaml_text, "MAX_DIGITS", 8)
    monkeypatch.setattr(yaml_text, "MAX_CHARACTERS", 60)
    with pytest.raises(ConfigError) as error:
        load_yaml(text, "x.yaml")
    assert str(error.value) == words


def test_a_text_at_the_limits_is_read(monkeypatch):
    monkeypatch.setattr(yaml_text, "MAX_DEPTH", 3)
    monkeypatch.setattr(yaml_text, "MAX_DIGITS", 8)
    content = load_yaml("a: [[0]]\nb: 12345678\nc: '123456789'\nd: 0.123456789", "x.yaml")
    assert content == {"a": [[0]], "b": 12345678, "c": "123456789", "d": 0.123456789}


@pytest.mark.parametrize(("most", "is_read"), [(36, True), (35, False)])
def test_aliases_count_for_all_that_they_repeat(monkeypatch, most, is_read):
    monkeypatch.setattr(yaml_text, "MAX_VALUES", most)
    if is_read:
        content = load_yaml(REPEATED, "x.yaml")
        assert content["c"] == [[[1, 2, 3]] * 2] * 2
    else:
        with pytest.raises(ConfigError, match=r"x.yaml, line \d: more than 35 values; aliases"):
            load_yaml(REPEATED, "x.yaml")


def test_merged_mappings_count_too(monkeypatch):
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}\n"
    assert load_yaml(text, "x.yaml")["c"] == {"x": 1, "y": 2}
    monkeypatch.setattr(yaml_text, "MAX_VALUES", 30)
    with pytest.raises(ConfigError, match="line 3: more than 30 values"):
        load_yaml(text, "x.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: 2026-99-01",
        "a: !!int x",
        "a: !!bool x",
        "a: !!int ''",
        r'a: "\U00110000"',
        "a: *b",
        "{a: b",
    ],
)
def test_whatever_the_parser_raises_is_one_sentence(text):
    with pytest.raises(ConfigError, match=r"^x.yaml is not valid YAML: [^\n]{3,300}$"):
        load_yaml(text, "x.yaml")


def test_the_parser_names_the_line_and_no_text_of_its_own():
    with pytest.raises(ConfigError) as error:
        load_yaml("a: 1\nb: 1\na: 2\n", "x.yaml")
    assert "line 3, column 1" in str(error.value)
    assert "unicode string" not in str(error.value) and "To suppress" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "section", "wanted"),
    [
        ("a:\n  x: 1 # one\n  y: 2\n", "a", "a:\n  x: 9 # one\n  y: 2\n"),
        ("a:\r\n  x: 1\r\n", "a", "a:\r\n  x: 9\r\n"),
        ("a:\n  x: 1", "a", "a:\n  x: 9"),
        ("a:\n  x:   '1'   # one\n", "a", "a:\n  x: 9   # one\n"),
        ("a:\n    x:\n    - 1 # one\n    - 2 # two\n    # y\n    y: 3\n", "a",
         "a:\n    x: 9 # two\n    # y\n    y: 3\n"),
        ("a:\n    x: # list\n    - 1\n    # y\n    y: 3\n", "a",
         "a:\n    x: 9 # list\n    # y\n    y: 3\n"),
        ("a:   {y: 1,\n  x: [1,\n 2],  z: 3} # end\n", "a", "a:   {y: 1,\n  x: 9,  z: 3} # end\n"),
        ("a:\n   y: 1 # one\n\n# b\nb: {}\n", "a", "a:\n   y: 1 # one\n   x: 9\n\n# b\nb: {}\n"),
        ("a:\r\n  y: 1\r\n\r\nb: {}\r\n", "a", "a:\r\n  y: 1\r\n  x: 9\r\n\r\nb: {}\r\n"),
        ("a:\n  y:\n  - 1\n  - 2 # two\n# b", "a", "a:\n  y:\n  - 1\n  - 2 # two\n  x: 9\n# b"),
        ("a:\n  y: 1", "a", "a:\n  y: 1\n  x: 9"),
        ("a: &a\n  z: 1\nb:\n  <<: *a\n", "b", "a: &a\n  z: 1\nb:\n  <<: *a\n  x: 9\n"),
        ("a:\n  y:\n\n# b\nb: {}\n", "a", "a:\n  y:\n  x: 9\n\n# b\nb: {}\n"),
        ("a:\n  x: # one\n  y: 2\n", "a", "a:\n  x: 9 # one\n  y: 2\n"),
        ("a: # none\r\nb: {}\r\n", "a", "a: # none\r\n  x: 9\r\nb: {}\r\n"),
        ("b: {}\na:", "a", "b: {}\na:\n  x: 9"),
        ("a: {} # none\n", "a", "a: {x: 9} # none\n"),
        ("a: {y: 1,}\n", "a", "a: {y: 1, x: 9}\n"),
        ("a: { y: 1 }\n", "a", "a: { y: 1, x: 9 }\n"),
        ('{"a": {"y": 1}}\n', "a", '{"a": {"y": 1, "x": 9}}\n'),
        ("a: {y: 1}\n# end\n", "b", "a: {y: 1}\n# end\nb:\n  x: 9\n"),
        ("a: {y: 1}\r\n", "b", "a: {y: 1}\r\nb:\r\n  x: 9\r\n"),
        ("a: {y: 1}", "b", "a: {y: 1}\nb:\n  x: 9"),
    ],
)  # fmt: skip
def test_one_value_changes_and_no_other_text(text, section, wanted):
    assert with_value(text, section, "x", "9") == wanted
    assert load_yaml(wanted, "x.yaml")[section]["x"] == 9


@pytest.mark.parametrize(
    "text", ["a: null\n", "a: &a {x: 1}\nb: *a\n", "b:\n  x: |\n    one\n", "{a: {}}"]
)
def test_a_place_that_is_not_sure_is_left_to_the_caller(text):
    assert with_value(text, "b" if "b:" in text or "{" in text else "a", "x", "9") is None
