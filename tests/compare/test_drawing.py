"""Axes, charts and the page: whole, escaped, and asking nothing of the network."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.compare.axis import Axis
from sg3flow.compare.chart_svg import chart_svg
from sg3flow.compare.comparison import compare
from sg3flow.compare.curves import Chart, Line, thinned
from sg3flow.compare.facts import Point, Snapshot
from sg3flow.compare.page import html_page, refuse_foreign_page
from sg3flow.compare.page_style import DARK, LIGHT
from sg3flow.compare.samples import Drawn
from sg3flow.errors import DataError

_HOSTILE = "<script>alert('1')</script>\"&{'<img src=https://x.org/a>"
_values = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20)


@given(_values, st.booleans())
def test_an_axis_holds_its_values_and_round_ticks(values, may_be_log):
    axis = Axis.around(values, may_be_log=may_be_log)
    assert axis.low < min(values) <= max(values) < axis.high
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places) and 0 <= places[0] and places[-1] <= 1
    ticks = axis.ticks()
    assert ticks == sorted(ticks) and len(ticks) <= 40
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)


def test_values_over_decades_are_drawn_by_ratio():
    axis = Axis.around([3.0, 300.0], may_be_log=True)
    assert axis.is_log and axis.ticks() == [5, 10, 20, 50, 100, 200]
    assert axis.place(30) == pytest.approx(0.5)
    assert not Axis.around([0.0, 300.0], may_be_log=True).is_log
    assert not Axis.around([3.0, 300.0]).is_log


_points = st.lists(
    st.builds(Point, st.floats(0, 1e6), st.floats(-1e6, 1e6), st.none() | st.floats(0, 1e3)),
    min_size=1,
    max_size=300,
)


@given(st.lists(_points, min_size=1, max_size=10))
def test_whatever_is_drawn_stays_within_the_chart(curves):
    lines = tuple(thinned(index, points) for index, points in enumerate(curves))
    svg = ElementTree.fromstring(chart_svg(Chart("title", "Loss/G", lines)))
    numbers = [
        tuple(map(float, pair.split(",")))
        for shape in svg.iter("polyline")
        for pair in shape.get("points").split()
    ]
    numbers += [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert all(0 <= x <= 520 and 0 <= y <= 280 for x, y in numbers)
    letters = [text for text in svg.iter("text") if "letter" in (text.get("class") or "")]
    assert len(letters) == len(curves)
    for column in {text.get("x") for text in letters}:
        heights = sorted(float(text.get("y")) for text in letters if text.get("x") == column)
        assert 0 < heights[0] and heights[-1] < 280
        assert all(b - a > 12 for a, b in pairwise(heights))


def test_a_chart_has_axes_errors_and_an_end_for_each_run():
    line = Line(1, (Point(0, 1.0, 0.1), Point(4, 2.0)))
    text = chart_svg(Chart("a & b", "fid<", (line,)))
    svg = ElementTree.fromstring(text)
    assert svg.get("aria-label") == "a & b over kimg, runs B"
    words = [each.text for each in svg.iter("text")]
    assert "kimg" in words and "fid<" in words and "B" in words
    assert len(list(svg.iter("path"))) == 1 and 'class="r1"' in text


def _contrast(a, b):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("colours", "card"), [(LIGHT, "#ffffff"), (DARK, "#1b212b")])
def test_every_line_can_be_seen(colours, card):
    assert min(_contrast(colour, card) for colour in colours) >= 3


class _Page(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.depth = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        loading = ("src", "href", "srcset", "action", "data", "xlink:href")
        self.loads += [value for name, value in attributes if name in loading]
        assert not any(name.startswith("on") for name, _ in attributes), attributes


def _page(runs, drawn=(), look=""):
    return html_page(compare(runs), drawn, look)


def test_the_page_asks_for_nothing_and_shows_names_as_they_are(facts):
    hostile = facts(
        _HOSTILE,
        kind=_HOSTILE,
        address=_HOSTILE,
        state=_HOSTILE,
        params={f"train.{_HOSTILE}": _HOSTILE},
        environment={_HOSTILE: _HOSTILE, "torch": _HOSTILE},
        notes=[_HOSTILE],
        snapshot=Snapshot("x", 4, _HOSTILE),
        results=[],
    )
    other = facts(params={f"train.{_HOSTILE}": "2"}, environment={"torch": "2"})
    drawn = [Drawn(reason=_HOSTILE), Drawn(("data:image/png;base64,AA==",), (_HOSTILE,), 16)]
    text = _page([hostile, other], drawn, _HOSTILE)
    page = _Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    assert page.loads == ["data:image/png;base64,AA=="]
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    assert not re.search(r"url\(|@import", text)
    assert text.count("&lt;script&gt;") >= 8


def test_the_page_has_every_part(facts):
    runs = [facts("first"), facts("second", value=3.0, params={"train.gamma": "0.4"})]
    drawn = [Drawn(("data:image/png;base64,AA==",) * 2, ("seed 0", "seed 1"), 256), Drawn()]
    text = _page(runs, drawn, "Seeds 0-1")
    for words in ("B is better than A", "5 ± 0.1", "train.gamma", "Surroundings that differ"):
        assert words in text
    assert text.count('<svg class="chart"') == 2 and "B did not record train.batch" in text
    assert len(text) < 40_000


def test_a_page_of_runs_about_which_nothing_is_known(facts):
    bare = facts(params={}, environment={}, curves={}, results=[], best={})
    text = _page([bare] * 10, [Drawn(reason="no snapshot was found")] * 10)
    for words in ("No run was measured", "No run has two reports yet", "no snapshot was found"):
        assert words in text


def test_only_a_page_of_ours_is_replaced(tmp_path, facts):
    page = tmp_path / "compare.html"
    refuse_foreign_page(page)
    page.write_text(_page([facts(), facts()]))
    refuse_foreign_page(page)
    page.write_text("<html>mine</html>")
    for path in (page, tmp_path):
        with pytest.raises(DataError, match="no page of sg3flow compare; choose another --out"):
            refuse_foreign_page(path)
