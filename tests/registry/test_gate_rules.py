"""The gate of several metrics: what it asks, and what follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.config import RegisterConfig
from sg3flow.errors import ConfigError, MetricError
from sg3flow.metrics.names import parse_metric, resolve_output, unit_of
from sg3flow.params_file import load_settings
from sg3flow.registry.gate import (
    decide,
    gate_record,
    read_gate_record,
    require_comparable,
    resolve_gate,
)

_FD, _PRECISION, _RECALL = (
    "fd_random500_full",
    "pr_random500_3_full_precision",
    "pr_random500_3_full_recall",
)
_GATE = {_FD: "better", _RECALL: "not worse"}


def _row(metric, value, error=0.1, **changes):
    row = {
        "metric": metric,
        "value": value,
        "standard_error": error,
        "higher_is_better": metric != _FD,
        "reference_sha256": "r",
        "detector_sha256": "d",
        "num_generated": 500,
        "num_reference": 900,
        "seed": 0,
    }
    return row | changes


def _rows(fd, recall, error=0.1):
    return {_FD: _row(_FD, fd, error), _RECALL: _row(_RECALL, recall, error / 10)}


_values = st.floats(-10, 10)
_errors = st.floats(0, 3)


def _passes(wanted, new, old, metric=_FD):
    return decide({metric: wanted}, {metric: new}, "1", {metric: old}).passed


_pairs = st.tuples(_values, _errors).map(lambda pair: _row(_FD, *pair))


@given(_pairs, _pairs)
def test_the_words_of_a_gate_exclude_each_other(a, b):
    better, worse = _passes("better", a, b), _passes("better", b, a)
    assert not (better and worse)
    assert _passes("not worse", a, b) == (not worse)
    assert _passes("not worse", a, b) or not better


@given(_pairs)
def test_a_version_is_not_better_than_itself_and_not_worse(a):
    assert not _passes("better", a, a) and _passes("not worse", a, a)


@given(_values, _values, _values, _values, _errors)
def test_a_version_passes_if_it_passes_in_every_metric(fd, old_fd, recall, old_recall, error):
    new, old = _rows(fd, recall, error), _rows(old_fd, old_recall, error)
    found = decide(_GATE, new, "1", old)
    each = [_passes(wanted, new[name], old[name], name) for name, wanted in _GATE.items()]
    assert [verdict.passed for verdict in found.verdicts] == each
    assert found.passed == all(each)


def test_every_metric_is_told_with_its_values_and_noise():
    passed = decide(_GATE, _rows(4.0, 0.50), "3", _rows(5.0, 0.51))
    assert passed.reason == (
        "champion: fd_random500_full 4 is better than the 5 of version 3 (difference 1, noise up "
        "to 0.28, unpaired); pr_random500_3_full_recall 0.5 is not worse than the 0.51 of "
        "version 3 (difference 0.01, noise up to 0.028, unpaired)"
    )
    failed = decide(_GATE, _rows(4.0, 0.40), "3", _rows(5.0, 0.51))
    assert failed.reason == (
        "version 3 stays champion: pr_random500_3_full_recall 0.4 is worse than its 0.51 "
        "(difference 0.11, noise up to 0.028, unpaired); passed in fd_random500_full"
    )
    assert not failed.passed and [each.passed for each in failed.verdicts] == [True, False]


def test_a_difference_that_cannot_be_read_is_told_once():
    found = decide(_GATE, _rows(4.8, 0.50), "3", _rows(5.0, 0.51))
    assert found.warning == (
        "500 images are too few for a difference of 0.2 in fd_random500_full: about 1,000 would be "
        "needed, more than the 900 of the reference set; count the two as equal"
    )
    assert decide(_GATE, _rows(3.0, 0.9), "3", _rows(5.0, 0.5)).warning == ""


def test_equivariance_is_told_in_its_unit():
    name = "eqt40_int"
    found = decide({name: "better"}, {name: _row(name, 31.0)}, "1", {name: _row(name, 30.0)})
    assert "eqt40_int 31 dB is better than the 30 dB of version 1" in found.reason


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({}, "not comparable, it was not measured by pr_random500_3_full_recall"),
        ({"seed": 1}, "not comparable by pr_random500_3_full_recall, for the seed differs"),
        (
            {"num_generated": 50},
            "not comparable by pr_random500_3_full_recall, for the number of generated images",
        ),
    ],
)
def test_what_cannot_be_compared_does_not_pass(base, words):
    old = _rows(5.0, 0.5)
    old = {_FD: old[_FD]} | ({_RECALL: old[_RECALL] | base} if base else {})
    found = decide(_GATE, _rows(4.0, 0.9), "2", old)
    assert not found.passed
    assert f"version 2 stays champion: {words}" in found.reason
    assert "passed in fd_random500_full" in found.reason


def test_another_reference_of_any_metric_is_an_error():
    old = _rows(5.0, 0.5)
    old[_RECALL]["reference_sha256"] = "other"
    words = "recall cannot be compared with the champion, version 2: the reference set differ"
    for check in (decide, require_comparable):
        with pytest.raises(MetricError, match=words):
            check(_GATE, _rows(4.0, 0.9), "2", old)


_MEASURED = [_FD, _PRECISION, _RECALL, "eqt40_int", "eqt40_frac"]


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        (_FD, _FD),
        ("fd_random", _FD),
        ("recall", _RECALL),
        ("pr_random_recall", _RECALL),
        ("precision", _PRECISION),
        ("eqt_int", "eqt40_int"),
    ],
)
def test_a_short_name_means_the_one_value_that_fits(short, whole):
    assert resolve_output(short, _MEASURED) == whole
    assert resolve_gate([f"{short}=not worse"], _FD, _MEASURED) == {whole: "not worse"}


@pytest.mark.parametrize(
    ("short", "words"),
    [
        ("pr_random", f"'pr_random' fits several measured values: {_PRECISION}, {_RECALL}"),
        ("density", "'density' was not measured"),
        ("fid50k_full", f"known: {_FD}, {_PRECISION}"),
        ("rec", "was not measured"),
        ("", "'' was not measured"),
    ],
)
def test_other_names_are_told_with_what_was_measured(short, words):
    with pytest.raises(MetricError, match=r"register\.gate: ") as error:
        resolve_gate([f"{short}=better"], _FD, _MEASURED)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_two_names_of_one_value_are_an_error():
    with pytest.raises(ConfigError, match=f"register.gate names {_RECALL} twice"):
        resolve_gate(["recall=better", f"{_RECALL}=not worse"], _FD, _MEASURED)


def test_every_name_in_the_table_resolves_to_itself_by_its_parts():
    for name in ("pr500_3_full", "dc1k5_full", "mem9_full", "eqt8_int", "ppl2_wend", "is50k"):
        metric = parse_metric(name)
        for output in metric.outputs:
            assert resolve_output(output, [output]) == output
            assert resolve_output(metric.kind, [output]) == output
            assert unit_of(output) == ("dB" if name.startswith("eq") else "")
    assert unit_of("a foreign name") == ""


def test_without_a_gate_the_metric_that_picked_decides():
    assert resolve_gate((), _FD, _MEASURED) == {_FD: "better"}


def _gate_of(value):
    return load_settings(RegisterConfig, "register", overrides={"gate": value}).gate


def test_a_gate_is_a_mapping_or_a_list():
    given_as = (
        {"fd_random": "better", "recall": "not worse"},
        ["fd_random=better", "recall=not worse"],
    )
    for value in given_as:
        assert _gate_of(value) == ("fd_random=better", "recall=not worse")
    assert _gate_of({}) == RegisterConfig().gate == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("recall", "register.gate must be a mapping such as {NAME: better}, not 'recall'"),
        (5, "must be a mapping such as {NAME: better}, not 5"),
        ([5], "must be a mapping such as {NAME: better}, not "),
        ({"recall": "bettr"}, "recall must be one of better, not worse, not 'bettr' (did you mean"),
        ({"recall": True}, "recall must be one of better, not worse, not true"),
        ({"recall": ["better"]}, "recall must be one of better, not worse, not "),
        (["recall"], "recall must be one of better, not worse, not ''"),
        ({"re call": "better"}, "'re call' is no name of a metric"),
        ({5: "better"}, "5 is no name of a metric"),
        ({"x" * 5000: "better"}, "is no name of a metric"),
    ],
)
def test_a_wrong_gate_is_one_short_sentence(value, words):
    with pytest.raises(ConfigError) as error:
        _gate_of(value)
    assert words in str(error.value)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_the_record_of_a_gate_reads_back_and_foreign_ones_are_none():
    found = decide(_GATE, _rows(4.0, 0.5), "3", _rows(5.0, 0.5))
    gate, verdicts = read_gate_record(gate_record(_GATE, found.verdicts))
    assert gate == _GATE and tuple(verdicts) == found.verdicts
    broken = [
        "",
        "[]",
        "{}",
        "null",
        '{"gate": 1, "verdicts": []}',
        '{"gate": {"a": "b"}, "verdicts": []}',
    ]
    assert all(read_gate_record(text) == ({}, []) for text in broken)
