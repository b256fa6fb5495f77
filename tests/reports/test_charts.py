"""Scales and charts: whole, escaped, equal each time, and in colors that can be seen."""

import json
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sg3flow.compare.comparison import Chart, Line, thinned
from sg3flow.compare.run_data import Point
from sg3flow.metrics.report import MetricResult
from sg3flow.reports.charts import (
    HEIGHT,
    MAX_RUNS,
    WIDTH,
    Scale,
    curves_svg,
    histogram_svg,
    metrics_chart,
    tick_labels,
)
from sg3flow.reports.pages import DARK, LIGHT

_values = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20)


@given(_values, st.booleans())
def test_a_scale_holds_its_values_and_round_ticks(values, may_be_log):
    scale = Scale.of_values(values, may_be_log=may_be_log)
    assert scale.low <= min(values) <= max(values) < scale.high
    assert scale.low < min(values) or scale.low == 0
    ticks = scale.ticks()
    assert ticks == sorted(ticks) and len(ticks) <= 40
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    labels = tick_labels(ticks)
    assert len({*labels}) == len(ticks)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_a_scale_of_ages_holds_them_all(kimgs):
    scale = Scale.of_ages(kimgs)
    assert 0 <= scale.low <= min(kimgs) <= max(kimgs) <= scale.high and scale.low < scale.high


@pytest.mark.parametrize(
    ("values", "low"),
    [([0, 3], 0), ([1, 3], 0), ([2.5, 3], 2.47), ([-1, 3], -1.24), ([0, 0], 0), ([20, 21], 19.94)],
)
def test_a_scale_starts_at_zero_where_zero_is_near(values, low):
    assert Scale.of_values(values).low == pytest.approx(low)


def test_ages_start_at_zero_unless_the_runs_begin_late():
    assert (Scale.of_ages([2, 4]).low, Scale.of_ages([3000, 4000]).low) == (0, 3000)
    assert Scale.of_ages([0, 3.99]).high == 4  # the mean of the last reports


def test_values_over_decades_are_drawn_by_ratio():
    scale = Scale.of_values([3.0, 300.0], may_be_log=True)
    assert scale.is_log and scale.ticks() == [5, 10, 20, 50, 100, 200]
    assert not Scale.of_values([0.0, 300.0], may_be_log=True).is_log
    assert not Scale.of_values([3.0, 300.0]).is_log


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 0.5, 1], ["0", "0.5", "1"]),
        ([10000, 20000], ["10,000", "20,000"]),
        ([1e12, 2e12], ["1e+12", "2e+12"]),
        ([1.0001, 1.0002], ["1.0001", "1.0002"]),
    ],
)
def test_ticks_have_as_many_digits_as_they_need(ticks, labels):
    assert tick_labels(ticks) == labels


_points = st.lists(
    st.builds(Point, st.floats(0, 1e6), st.floats(-1e6, 1e6), st.none() | st.floats(0, 1e3)),
    min_size=1,
    max_size=300,
)


def _told(svg):
    """The lines of a chart as its page's script reads them: x, y, age and value of each point."""
    lines = json.loads(svg.get("data-lines"))
    return {each["name"]: [p.split("|") for p in each["points"].split(";")] for each in lines}


@settings(max_examples=10, deadline=None)
@given(st.lists(_points, min_size=1, max_size=10))
@example([[Point(4, value)] for value in range(MAX_RUNS)])
@pytest.mark.medium
def test_whatever_is_drawn_stays_within_the_chart(curves):
    lines = tuple(thinned(index, points) for index, points in enumerate(curves))
    names = [f"run {index}" for index in range(len(lines))]
    svg = ElementTree.fromstring(curves_svg(Chart("title", "Loss/G", lines), names))
    told = _told(svg)
    assert [len(points) for points in told.values()] == [len(line.points) for line in lines]
    places = [(float(x), float(y)) for points in told.values() for x, y, *_ in points]
    drawn = [each.get("d") for each in svg.iter("path") if each.get("stroke-width") == "2"]
    places += [tuple(map(float, pair)) for d in drawn for pair in re.findall(_PAIR, d)]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    letters = [t for t in svg.iter("text") if len(t.text) == 1 and t.get("font-weight")]
    assert len(letters) == len(curves)
    for column in {text.get("x") for text in letters}:
        heights = sorted(float(text.get("y")) for text in letters if text.get("x") == column)
        assert 0 < heights[0] and heights[-1] < HEIGHT
        least = 9 if len(curves) > 10 else 12
        assert all(b - a > least for a, b in pairwise(heights))


_PAIR = r"[ML] ([-\d.]+) ([-\d.]+)"


def test_a_chart_has_axes_errors_and_an_end_for_each_run():
    line = Line(1, (Point(0, 1.0, 0.1), Point(4, 2.0)))
    text = curves_svg(Chart("a & b", "fid<", (line,)), ["first", "second"])
    svg = ElementTree.fromstring(text)
    assert svg.get("aria-label") == "a & b over kimg, runs B"
    words = [each.text for each in svg.iter("text")]
    assert "kimg" in words and "fid<" in words and "B" in words
    points = [("0 kimg", "1 ± 0.1"), ("4 kimg", "2")]
    assert [tuple(each[2:]) for each in _told(svg)["B second"]] == points
    thin = [each for each in svg.iter("path") if each.get("stroke-width") == "1.3"]
    assert thin, "the bar of the error"
    assert not re.search("style=|#[0-9a-f]{6}|xmlns|http", text), "colors are the page's"
    assert text == curves_svg(Chart("a & b", "fid<", (line,)), ["first", "second"])
    assert ">Loss?<" in curves_svg(Chart("t", "Loss\0", (line,)), ["first", "second"])


def test_a_histogram_has_a_bar_for_each_count():
    svg = ElementTree.fromstring(histogram_svg([0, 1200, 3], "Contrast", 16))
    told = _told(svg)["Contrast"]
    assert [each[2:] for each in told[:2]] == [
        ["0 to 15", "0 images"],
        ["16 to 31", "1,200 images"],
    ]
    assert len([p for p in svg.iter("path") if p.get("fill") == "var(--bar)"]) == 3


def _result(kimg, metric, value):
    return MetricResult(
        snapshot=f"network-snapshot-{kimg:06d}.pkl",
        kimg=kimg,
        metric=metric,
        value=value,
        standard_error=None if kimg == 20 else value / 10,
        error_rule=None,
        num_generated=9,
        num_reference=8,
        detector="d",
        detector_sha256="e",
        reference_sha256="f",
        network_sha256="0",
        resize="r",
        seed=0,
        higher_is_better=metric.startswith("eq"),
        torch="2",
    )


_RESULTS = [_result(k, m, v) for k in (2, 10, 20) for m, v in (("fid9_full", 70 / k), ("eqr9", k))]


@pytest.mark.parametrize("results", [_RESULTS, _RESULTS[:1], [_result(0, "fid9_full", 0.0)] * 2])
def test_the_chart_of_metrics_has_a_panel_per_metric_and_rings_the_best(results):
    chart = metrics_chart(results, results[0])
    panels = len({each.metric for each in results})
    assert chart.height == 220 * panels
    colors = chart.getcolors(1 << 20)
    ring = [count for count, (r, g, b, a) in colors if a > 200 and r > 150 and g < 140 and b < 110]
    assert sum(ring) > 20
    assert chart.getpixel((0, 0))[3] == 0, "transparent, for a light and for a dark page"
    drawn = {f"#{r:02x}{g:02x}{b:02x}" for count, (r, g, b, a) in colors if a == 255}
    assert drawn
    for color in drawn:
        assert min(_contrast(color, "#ffffff"), _contrast(color, "#12161d")) > 3, color
    assert chart.tobytes() == metrics_chart(results, results[0]).tobytes()


def _contrast(a, b):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colors", "card"), [(LIGHT, "#ffffff"), (DARK, "#1b212b")])
def test_every_line_can_be_seen(colors, card):
    assert min(_contrast(color, card) for color in colors) >= 3
