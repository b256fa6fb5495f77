"""What is said of runs, before it is drawn or printed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.compare.comparison import (
    MAX_POINTS,
    compare,
    differing,
    metric_charts,
    statistic_charts,
    thinned,
)
from sg3flow.compare.run_data import Point, canonical

_finite = st.floats(-1e9, 1e9)
_settings = st.one_of(
    st.booleans(),
    st.integers(-(10**9), 10**9),
    _finite,
    st.lists(st.sampled_from("ab"), max_size=3),
)
_recorded = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1", "2", "x"])),
    min_size=1,
    max_size=6,
)


@given(_settings)
def test_a_setting_reads_the_same_as_value_as_text_and_from_json(value):
    assert canonical(value) == canonical(str(value)) == canonical(json.loads(json.dumps(value)))


@given(st.text(max_size=40))
def test_any_text_is_a_setting(text):
    assert canonical(canonical(text)) == canonical(text)


@pytest.mark.parametrize(
    ("recorded", "text"),
    [("0.20", "0.2"), (2, "2"), ("2.0", "2"), ("True", "true"), ("['none']", "none"), ("[1", "[1")],
)
def test_settings_as_text(recorded, text):
    assert canonical(recorded) == text


@given(_recorded)
def test_exactly_what_has_two_values_differs(recorded):
    found = {row.name: row.values for row in differing(recorded)}
    for name in {name for values in recorded for name in values}:
        known = {values[name] for values in recorded if name in values}
        assert (name in found) == (len(known) > 1)
    assert all(len(values) == len(recorded) for values in found.values())


def test_an_older_run_that_lacks_a_setting_does_not_differ_in_it(facts):
    older = facts("old", params={"train.gamma": "0.2"})
    comparison = compare([facts(), older])
    assert comparison.params == ()
    assert comparison.gaps == ("B did not record train.batch",)


def test_verdicts_are_against_the_first_run(facts, row):
    other = facts("other set", best={"fid9_full": row(4, 1.0, reference_sha256="z")})
    runs = [facts(), facts(value=4.0), facts(value=6.0), facts(value=5.1), other, facts(best={})]
    comparison = compare(runs)
    [metric] = comparison.metrics
    words = [verdict.word if verdict else "" for verdict in metric.results]
    assert words == ["", "better", "worse", "within noise", "not comparable", "not measured"]
    assert comparison.headline == (
        "By fid9_full, B is better than A; C is worse than A; D is within noise of A; "
        "E is not comparable with A; F is not measured."
    )


def test_without_a_first_measurement_nothing_is_said_of_the_others(facts):
    comparison = compare([facts(best={}), facts(), facts(best={})])
    [metric] = comparison.metrics
    words = [verdict.word if verdict else "" for verdict in metric.results]
    assert words == ["", "nothing to compare with", "not measured"]
    assert comparison.headline == (
        "A has no value of fid9_full, so nothing can be compared with it."
    )


def test_runs_are_also_held_together_at_the_same_age(facts, row):
    long = [row(0, 9.0), row(4, 5.0), row(8, 3.0)]
    run = facts("long", results=long, best={"fid9_full": long[2]})
    age, [at_age] = compare([facts(), run]).common
    assert age == 4 and [cell["value"] for cell in at_age.cells] == [5.0, 5.0]
    assert at_age.results[1].word == "within noise"
    assert compare([facts(), facts()]).common is None
    assert compare([facts(), facts(results=[], best={})]).common is None


def test_nothing_measured_is_said_plainly(facts):
    comparison = compare([facts(results=[], best={}, curves={}, params={}, environment={})] * 2)
    assert (comparison.headline, comparison.metrics, comparison.charts) == ("", (), ())


@given(st.lists(st.tuples(_finite, _finite), max_size=1200))
def test_many_points_become_few_and_keep_their_range(pairs):
    points = [Point(kimg, value) for kimg, value in pairs]
    line = thinned(0, points)
    assert len(line.points) == min(len(points), MAX_POINTS)
    assert list(line.points) == sorted(line.points, key=lambda point: point.kimg)
    if line.low:
        assert min(line.low) == min(v for _, v in pairs)
        assert max(line.high) == max(v for _, v in pairs)
        for point, low, high in zip(line.points, line.low, line.high, strict=True):
            assert low <= point.value <= high


def test_only_comparable_metrics_share_a_chart(facts, row):
    strange = [row(kimg, 1.0, detector_sha256="other") for kimg in (0, 4)]
    [chart] = metric_charts([facts(), facts(results=strange), facts(results=[]), facts()])
    assert [line.run for line in chart.lines] == [0, 3]
    assert chart.notes == ("B excluded: the detector differs", "C: not measured")
    assert chart.lines[0].points[0].error == 0.1


def test_metrics_of_the_training_itself_are_drawn_with_what_they_lack(facts):
    during = {"fid50k_full": [Point(0, 90.0), Point(4, 40.0)]}
    [chart] = metric_charts([facts(results=[], trained=during), facts(results=[])])
    assert [line.run for line in chart.lines] == [0]
    assert "no standard errors" in chart.notes[0] and chart.notes[1] == "B: not recorded"


def test_curves_of_augmentation_only_where_there_was_any(facts):
    still = {"Progress/augment": [Point(0, 0.0), Point(4, 0.0)]}
    moving = {"Progress/augment": [Point(0, 0.0), Point(2, 0.1)]}
    assert statistic_charts([facts(curves=still), facts(curves={})]) == []
    [chart] = statistic_charts([facts(curves=still), facts(curves=moving), facts(curves={})])
    assert chart.notes == ("C: not recorded",)
