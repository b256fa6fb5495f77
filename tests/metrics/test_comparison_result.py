"""Better, worse, or within noise: one rule for comparisons and for the champion."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.metrics.estimates import compare_results
from sg3flow.registry.gate import decide

_ROW = {
    "metric": "fid9_full",
    "value": 5.0,
    "standard_error": 0.3,
    "higher_is_better": False,
    "reference_sha256": "r",
    "detector_sha256": "d",
    "num_generated": 9,
    "num_reference": 8,
    "resize": "bilinear",
    "seed": 0,
}
_values = st.floats(-1e6, 1e6)
_errors = st.none() | st.floats(0, 1e3)
_rows = st.builds(
    lambda value, error, higher: (
        _ROW | {"value": value, "standard_error": error, "higher_is_better": higher}
    ),
    _values,
    _errors,
    st.just(False),
)
_OPPOSITE = {"better": "worse", "worse": "better", "within noise": "within noise"}


@given(_rows, _rows)
def test_the_other_way_round_the_verdict_is_the_opposite(a, b):
    assert compare_results(b, a).word == _OPPOSITE[compare_results(a, b).word]


@given(_rows, _rows)
def test_better_is_what_makes_a_champion(a, b):
    name = a["metric"]
    decision = decide({name: "better"}, {name: a}, "1", {name: b})
    assert (compare_results(a, b).word == "better") == decision.passed


@given(_rows, _rows)
def test_where_higher_is_better_signs_turn(a, b):
    turned = [row | {"higher_is_better": True, "value": -row["value"]} for row in (a, b)]
    assert compare_results(*turned).word == compare_results(a, b).word


@given(_rows)
def test_a_result_is_within_noise_of_itself(a):
    assert compare_results(a, a).word == "within noise"


@pytest.mark.parametrize(
    ("value", "word"), [(4.0, "better"), (4.2, "within noise"), (5.8, "within noise"), (6, "worse")]
)
def test_a_difference_counts_from_two_combined_errors(value, word):
    verdict = compare_results(_ROW | {"value": value}, _ROW)  # 2 * hypot(0.3, 0.3) = 0.85
    assert verdict.word == word and "0.85" in verdict.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reference_sha256": "s"}, "the reference set differs"),
        ({"detector_sha256": None, "seed": 1}, "the detector and the seed differ"),
        ({"num_generated": 50}, "the number of generated images differs"),
        ({"higher_is_better": True}, "they disagree on whether higher is better"),
        ({"value": math.nan}, "a value is not finite"),
    ],
)
def test_what_cannot_be_compared_is_not_and_says_why(change, reason):
    for pair in ((_ROW | change, _ROW), (_ROW, _ROW | change)):
        verdict = compare_results(*pair)
        assert (verdict.word, verdict.reason) == ("not comparable", reason)
        assert not verdict.is_compared


@pytest.mark.parametrize("key", ["reference_sha256", "detector_sha256", "higher_is_better"])
def test_a_row_that_does_not_say_what_it_means_is_not_compared(key):
    older = {name: value for name, value in _ROW.items() if name != key}
    assert compare_results(older, older).word == "not comparable"


def test_what_was_not_measured_has_no_verdict():
    assert compare_results(None, _ROW).word == compare_results(_ROW, None).word == "not measured"
