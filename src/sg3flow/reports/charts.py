"""Charts by matplotlib: inline SVG for pages, and PNG for ``dvc plots``.

Why matplotlib: MLflow depends on it anyway, it works offline, and it writes both formats. Altair, a
dependency of Great Expectations, needs a renderer from the network. Only ``Figure`` and its
canvases are used, not pyplot, and they are imported on first use.

Longer than most files: both formats share axes, scales and style.
"""

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from PIL import Image

from sg3flow.compare.run_data import Point, letter
from sg3flow.reports.pages import BAR, GRID, HUES, LIGHT, SOFT, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    # Both import torch, which the validation page does not need.
    from sg3flow.compare.comparison import Chart, Line
    from sg3flow.metrics.report import MetricResult

DASHES = (
    "",
    "7 4",
    "2 3",
)  # for runs that share a hue; each line also ends with the letter of its run
MAX_RUNS = HUES * len(DASHES)

WIDTH, HEIGHT = 400, 240  # of a chart, in units of about one CSS pixel
_RIGHT, _TOP, _BOTTOM = 24, 26, 40
_FONT, _DIGIT = 11, 6.8  # text size and digit width
_LETTER_GAP = 13.0  # preferred distance between letters at the ends of lines
_LETTER_TOP = 8.0  # smallest y of a letter
_SAME_END = 24  # lines that end within this distance share a column of letters
_MANY = 40  # lines with more points have no markers
_MAX_BANDS = 4  # charts with more lines have no bands, as they would overlap
_MAX_DECADES = 1.7  # values that span more get a logarithmic axis
_BEST = "#c2410c"
# The PNG is transparent, and these are seen on white and on the background of a dark theme.
_INK, _FAINT, _CURVE = "#6b778c", "#80808059", "#2b8cc4"
_Place = tuple[float, float]
_PANEL_INCHES, _PANEL_DPI = (7.2, 2.2), 100  # per metric in the PNG


@dataclass(frozen=True)
class Scale:
    """The range of an axis.

    Attributes:
        low, high: limits of the axis; low < high.
        is_log: whether the axis is logarithmic.
    """

    low: float
    high: float
    is_log: bool = False

    @classmethod
    def of_values(cls, values: Sequence[float], *, may_be_log: bool = False) -> "Scale":
        """A scale for all values; there is at least one, and all are finite.

        It starts at zero if the values are not negative and the minimum is below half of the
        maximum.
        """
        low, high = min(values), max(values)
        if may_be_log and low > 0 and math.log10(high) - math.log10(low) > _MAX_DECADES:
            return cls(low / 1.2, high * 1.2, True)
        if 0 <= low <= 0.5 * high:
            return cls(0.0, 1.06 * high or 1.0)
        size = max(abs(low), abs(high), 1e-9)
        margin = 0.06 * (high - low) if high - low > 1e-9 * size else 0.1 * size
        return cls(low - margin, high + margin)

    @classmethod
    def of_ages(cls, kimgs: Sequence[float]) -> "Scale":
        """The scale of kimg: from zero, or from the first report if the runs start late."""
        low, high = min(kimgs), max(kimgs)
        low = 0.0 if 0 <= low <= 0.5 * high or low == high else low
        if high - low <= 1e-9 * max(abs(high), 1):
            return cls(low, low + 1)
        # Extend to the next round number if the line ends just before it, as averages do.
        step = min(np.diff(cls(low, high).ticks()), default=high - low)
        end = math.ceil(high / step) * step
        return cls(low, end if end - high < 0.02 * (high - low) else high)

    def ticks(self) -> list[float]:
        """Round numbers within the range, in ascending order."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.is_log:
            decades = math.log10(self.high) - math.log10(self.low)
            locator = LogLocator(subs=(1, 2, 5) if decades <= 4 else (1,), numticks=8)
            found = locator.tick_values(self.low, self.high)
        else:
            found = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        size = max(abs(self.low), abs(self.high))
        rounded = [0.0 if abs(tick) < 1e-12 * size else float(tick) for tick in found]
        return [tick for tick in rounded if self.low <= tick <= self.high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as text, with as many digits as needed to distinguish them."""
    labels: list[str] = []
    for digits in range(3, 16):
        labels = [_number(tick, digits) for tick in ticks]
        step = min((b - a for a, b in pairwise(ticks)), default=math.inf)
        near = [
            abs(float(label.replace(",", "")) - t) for label, t in zip(labels, ticks, strict=True)
        ]
        if len({*labels}) == len(labels) and max(near, default=0) < 0.05 * step:
            break
    return labels


def curves_svg(chart: "Chart", names: Sequence[str]) -> Markup:
    """Curves of a comparison as an SVG element of WIDTH x HEIGHT units.

    Its attribute ``data-lines`` has the position and text of every point, for ``hover.js``.

    Args:
        names: names of all runs in the comparison.
    """
    points = [point for line in chart.lines for point in line.points]
    reach = [p.value + side * 2 * (p.error or 0) for p in points for side in (-1, 1)]
    banded = [line for line in chart.lines if line.low and len(chart.lines) <= _MAX_BANDS]
    bands = [value for line in banded for value in (*line.low, *line.high)]
    up = Scale.of_values([*reach, *bands], may_be_log=chart.may_be_log)
    across = Scale.of_ages([point.kimg for point in points])
    words = ", logarithmic" if up.is_log else ""
    with _axes(across, up, f"{chart.name}{words}") as (figure, axes):
        for line in banded:
            kimgs = [point.kimg for point in line.points]
            outline = ([*kimgs, *kimgs[::-1]], [*line.high, *line.low[::-1]])
            axes.fill(*outline, color=LIGHT[line.run % HUES], alpha=0.13, lw=0)
        for line in chart.lines:
            _draw_line(axes, line)
        places = [_places(axes, line.points) for line in chart.lines]
        ends = [(*own[-1], line.run) for own, line in zip(places, chart.lines, strict=True)]
        size = min(12, _letter_gap(len(ends)))
        for x, y, run in letter_places(ends):
            where = (x / WIDTH, 1 - y / HEIGHT)
            color = LIGHT[run % HUES]
            figure.text(*where, letter(run), color=color, weight="bold", va="center", size=size)
        svg = _svg_of(figure, f"{chart.title}{chart.name}")
    hover = [_hover_data(line, names, own) for line, own in zip(chart.lines, places, strict=True)]
    letters = ", ".join(letter(line.run) for line in chart.lines)
    return inline_svg(svg, f"{chart.title} over kimg, runs {letters}", hover)


def histogram_svg(counts: Sequence[int], label: str, width: int) -> Markup:
    """A histogram as an SVG element.

    Args:
        width: range of values per bar; the first bar starts at 0.
    """
    across = Scale(0, width * len(counts))
    up = Scale.of_values([0, *counts])
    with _axes(across, up, "images", "gray value") as (figure, axes):
        edges = [width * index + width / 2 for index in range(len(counts))]
        axes.bar(edges, counts, width * 0.88, color=BAR)
        points = [Point(x, count) for x, count in zip(edges, counts, strict=True)]
        places = _places(axes, points)
        svg = _svg_of(figure, label)
    hover = [
        (place, f"{width * index} to {width * (index + 1) - 1}", f"{count:,} images")
        for index, (place, count) in enumerate(zip(places, counts, strict=True))
    ]
    return inline_svg(svg, label, [{"name": label, "points": _packed(hover)}])


def metrics_chart(results: "Sequence[MetricResult]", best: "MetricResult") -> Image.Image:
    """One panel per metric: values with bars of two standard errors over kimg.

    Args:
        results: results of snapshots with known kimg.
        best: the best result; every panel marks its snapshot with a ring.

    Returns:
        an RGBA image with a transparent background.
    """
    stream = io.BytesIO()
    names = list(dict.fromkeys(result.metric for result in results))
    width, height = _PANEL_INCHES
    with _own_style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        room = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.12)
        size = (width, height * len(names))
        figure = Figure(figsize=size, dpi=_PANEL_DPI, layout=room)
        FigureCanvasAgg(figure)
        for row, name in enumerate(names, 1):
            chosen = sorted((r for r in results if r.metric == name), key=_age)
            _draw_panel(figure.add_subplot(len(names), 1, row), chosen, best)
        figure.savefig(stream, format="png", dpi=_PANEL_DPI, transparent=True)
    with Image.open(stream) as picture:
        return picture.convert("RGBA")


def letter_places(ends: Sequence[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Positions of the letters of runs: right of the ends of their lines, without overlap.

    Args:
        ends: x, y (from the top) and run of the end of each line.
    """
    columns: list[list[tuple[float, float, int]]] = []
    for end in sorted(ends):
        if columns and end[0] - columns[-1][0][0] < _SAME_END:
            columns[-1].append(end)
        else:
            columns.append([end])
    return [place for column in columns for place in _letter_column(column)]


def _letter_column(ends: Sequence[tuple[float, float, int]]) -> Iterator[tuple[float, float, int]]:
    """Letters of lines that end at about the same kimg, from top to bottom."""
    x, gap = max(end[0] for end in ends) + 7, _letter_gap(len(ends))
    # The first letter may be no lower than this, so that the last one has room.
    room, last = HEIGHT - _BOTTOM - gap * (len(ends) - 1), _LETTER_TOP - gap
    for index, (_, y, run) in enumerate(sorted(ends, key=lambda end: end[1])):
        last = min(max(y, last + gap), room + gap * index)
        yield x, last, run


def _letter_gap(count: int) -> float:
    """The distance between ``count`` letters: the preferred one, or less if there is no room."""
    return min(_LETTER_GAP, (HEIGHT - _BOTTOM - _LETTER_TOP) / max(count - 1, 1))


def _age(result: "MetricResult") -> float:
    return float(result.kimg or 0)


def _draw_panel(axes: "Axes", rows: "Sequence[MetricResult]", best: "MetricResult") -> None:
    kimgs, values = [_age(row) for row in rows], [row.value for row in rows]
    errors = [2 * (row.standard_error or 0) for row in rows]
    reach = [v + side * e for v, e in zip(values, errors, strict=True) for side in (-1, 1)]
    ages = Scale.of_ages(kimgs)
    margin = 0.03 * (ages.high - ages.low)
    _set_scales(axes, Scale(ages.low - margin, ages.high + margin), Scale.of_values(reach))
    axes.grid(axis="y", color=_FAINT, lw=1)
    style: dict[str, Any] = {"color": _CURVE, "clip_on": False}
    axes.errorbar(kimgs, values, errors, marker="o", ms=5, capsize=4, lw=1.8, elinewidth=1, **style)
    ringed = [
        (k, v)
        for row, k, v in zip(rows, kimgs, values, strict=True)
        if row.snapshot == best.snapshot
    ]
    ring: dict[str, Any] = {"mfc": "none", "mec": _BEST, "mew": 2, "ls": "none", "clip_on": False}
    axes.plot(*zip(*ringed, strict=True), marker="o", ms=13, **ring)
    better = "higher" if rows[0].higher_is_better else "lower"
    words = f"{better} is better; bars: 2 standard errors; ring: best snapshot; x: kimg"
    axes.tick_params(labelsize=9, color=_INK, labelcolor=_INK)
    axes.set_title(f"{rows[0].metric}  ({words})", loc="left", size=9, color=_INK)


def _draw_line(axes: "Axes", line: "Line") -> None:
    color, dash = LIGHT[line.run % HUES], DASHES[line.run // HUES % len(DASHES)]
    kimgs, values = [p.kimg for p in line.points], [p.value for p in line.points]
    pattern: Any = (0, [float(part) / 2 for part in dash.split()]) if dash else "-"
    marker = "o" if len(line.points) <= _MANY else ""
    style: dict[str, Any] = {"color": color, "clip_on": False}
    axes.plot(kimgs, values, marker=marker, ms=5, mew=0, lw=2, ls=pattern, **style)
    errors = [2 * (point.error or 0) for point in line.points]
    if any(errors):
        axes.errorbar(kimgs, values, errors, fmt="none", capsize=3, elinewidth=1.3, **style)


def _set_scales(axes: "Axes", across: Scale, up: Scale) -> None:
    """Set ranges and ticks, and style the frame."""
    if up.is_log:
        axes.set_yscale("log")
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(up.low, up.high)
    axes.set_xticks(across.ticks(), tick_labels(across.ticks()))
    axes.set_yticks(up.ticks(), tick_labels(up.ticks()))
    axes.minorticks_off()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, lw=1)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(color=SOFT, labelcolor=SOFT, length=4)
    axes.tick_params(axis="y", length=0, pad=6)


@contextmanager
def _axes(
    across: Scale, up: Scale, name: str, age: str = "kimg"
) -> "Iterator[tuple[Figure, Axes]]":
    """Axes of a chart for a page, with room for tick labels; draw and save inside the block."""
    with _own_style():
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)  # a point is a unit
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        left = 17 + _DIGIT * max(map(len, tick_labels(up.ticks())), default=1)
        wide, high = WIDTH - left - _RIGHT, HEIGHT - _TOP - _BOTTOM
        axes = figure.add_axes((left / WIDTH, _BOTTOM / HEIGHT, wide / WIDTH, high / HEIGHT))
        axes.patch.set_visible(False)
        _set_scales(axes, across, up)
        # Names come from files; XML cannot contain all characters.
        name = "".join(each if each.isprintable() else "?" for each in name)
        figure.text(4 / WIDTH, 1 - 4 / HEIGHT, name, color=SOFT, va="top", weight="bold")
        middle = (left + wide / 2) / WIDTH
        figure.text(middle, 4 / HEIGHT, age, color=SOFT, va="bottom", ha="center", weight="bold")
        yield figure, axes


@contextmanager
def _own_style() -> Iterator[None]:
    """matplotlib's defaults without the user's matplotlibrc: equal charts on all machines."""
    from matplotlib import style

    # Suppress the message about building the font cache.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    own = {"svg.fonttype": "none", "font.size": _FONT, "text.parse_math": False}
    with style.context(["default", own]):
        yield


def _places(axes: "Axes", points: Sequence[Point]) -> list[_Place]:
    """Positions of points, x and y from the top left corner."""
    known = np.array([(point.kimg, point.value) for point in points], float)
    drawn = axes.transData.transform(known)
    return [(round(float(x), 1), round(float(HEIGHT - y), 1)) for x, y in drawn]


def _hover_data(line: "Line", names: Sequence[str], places: Sequence[_Place]) -> dict[str, Any]:
    """A line for the script of the page: position, kimg and value of each point."""
    points = []
    for point, place in zip(line.points, places, strict=True):
        error = f" ± {point.error:.2g}" if point.error else ""
        points.append((place, f"{point.kimg:.6g} kimg", f"{point.value:.5g}{error}"))
    name = f"{letter(line.run)} {names[line.run]}"
    return {"hue": line.run % HUES, "name": name, "points": _packed(points)}


def _packed(points: Sequence[tuple[_Place, str, str]]) -> str:
    """Points as compact text, a third of the size of JSON in an attribute."""
    return ";".join(f"{x:g}|{y:g}|{age}|{value}" for (x, y), age, value in points)


def _svg_of(figure: "Figure", salt: str) -> ElementTree.Element:
    """The figure as an SVG element tree; ``salt`` makes the identifiers of a chart unique."""
    import matplotlib

    stream = io.BytesIO()
    unwanted = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", transparent=True, metadata=unwanted)
    return ElementTree.fromstring(stream.getvalue())


def _number(value: float, digits: int) -> str:
    if 1e4 <= abs(value) < 1e7 and float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
