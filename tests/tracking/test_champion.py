"""When a new version takes the champion's place."""

import pytest

from sg3flow.errors import MetricError
from sg3flow.registry import gate

_ROW = {
    "metric": "fd_random1k_full",
    "value": 5.0,
    "higher_is_better": False,
    "reference_sha256": "r",
    "detector_sha256": "d",
    "num_generated": 1000,
    "num_reference": 500,
    "resize": "bilinear",
    "seed": 0,
    "reference_flips": False,
    "reference_limit": None,
}
_BETTER = {"fd_random1k_full": "better"}


def compare_with_champion(result, champion, base):
    rows = {} if base is None else {base["metric"]: base}
    decision = gate.decide(_BETTER, {result["metric"]: result}, champion, rows)
    return decision.passed, decision.reason


def require_comparable(result, champion, base):
    rows = {} if base is None else {base["metric"]: base}
    gate.require_comparable(_BETTER, {result["metric"]: result}, champion, rows)


@pytest.mark.parametrize(("value", "wins"), [(4.9, True), (5.0, False), (5.1, False)])
def test_a_lower_distance_wins_and_an_equal_one_does_not(value, wins):
    won, why = compare_with_champion(_ROW | {"value": value}, "3", _ROW)
    assert won is wins and "version 3" in why


@pytest.mark.parametrize(("value", "wins"), [(4.0, False), (6.0, True)])
def test_where_higher_is_better_higher_wins(value, wins):
    current = _ROW | {"higher_is_better": True, "reference_sha256": None, "detector_sha256": None}
    assert compare_with_champion(current | {"value": value}, "3", current)[0] is wins


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_generated": 50000}, "the number of generated images"),
        ({"num_reference": 7}, "the number of reference images"),
        ({"seed": 1}, "the seed"),
    ],
)
def test_values_under_other_conditions_are_not_compared(change, words):
    won, why = compare_with_champion(_ROW | {"value": 0.0} | change, "3", _ROW)
    assert not won
    assert "not comparable" in why and words in why and "version 3 stays champion" in why


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference_sha256": "other"}, "the reference set"),
        ({"detector_sha256": None}, "the detector"),
        ({"reference_flips": True}, "the flips of the reference set"),
        ({"reference_limit": 50_000}, "the limit of the reference set"),
        ({"resize": "bicubic"}, "the resizing"),
    ],
)
def test_values_of_another_meaning_are_an_error(change, words):
    for decide in (compare_with_champion, require_comparable):
        with pytest.raises(MetricError, match=f"version 3: {words} differ; register under"):
            decide(_ROW | {"value": 0.0} | change, "3", _ROW)
    require_comparable(_ROW | {"seed": 1}, "3", _ROW)
    require_comparable(_ROW | change, "3", None)


@pytest.mark.parametrize(
    ("value", "errors", "wins"),
    [
        (4.0, (0.3, 0.4), False),  # 1.0 better, with an error of 0.5
        (3.9, (0.3, 0.4), True),
        (4.9, (None, 0.0), True),
        (4.9, (None, 0.1), False),
        (5.1, (0.3, 0.4), False),
    ],
)
def test_a_difference_within_its_error_does_not_count(value, errors, wins):
    new = _ROW | {"value": value, "standard_error": errors[0]}
    won, why = compare_with_champion(new, "3", _ROW | {"standard_error": errors[1]})
    assert won is wins
    assert ("is better than" in why) == wins and "noise up to" in why and "unpaired" in why


def test_a_champion_not_measured_by_the_metric_stays():
    won, why = compare_with_champion(_ROW, "3", None)
    assert not won and "was not measured by fd_random1k_full" in why
