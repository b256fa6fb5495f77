"""A chart as SVG for a page: colours come from the page's style, nothing from anywhere else."""

from collections.abc import Sequence
from html import escape

from sg3flow.compare.axis import Axis
from sg3flow.compare.curves import Chart, Line
from sg3flow.compare.facts import Point, letter

_WIDTH, _HEIGHT = 520, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 26, 12, 42
_LETTER_GAP = 13  # least distance of two letters at the ends of lines
_SAME_END = 24  # lines that end closer than this share a column of letters
_MANY = 40  # points of a line without a mark each
_MOST_BANDS = 4  # lines with a band around them: more would hide each other


def chart_svg(chart: Chart) -> str:
    """The chart, [520 x 280] of its own units; it scales with the page."""
    points = [point for line in chart.lines for point in line.points]
    reach = [p.value + side * 2 * (p.error or 0) for p in points for side in (-1, 1)]
    banded = [line for line in chart.lines if len(chart.lines) <= _MOST_BANDS]
    bands = [value for line in banded for value in (*line.low, *line.high)]
    across = Axis.of_ages([point.kimg for point in points])
    up = Axis.around([*reach, *bands], may_be_log=chart.may_be_log)
    parts = [_axes(across, up, chart.name)]
    parts += [_band(line, across, up) for line in banded if line.low]
    parts += [_line(line, across, up) for line in chart.lines]
    parts += _letters(chart.lines, across, up)
    label = escape(f"{chart.title} over kimg, runs {', '.join(_names(chart.lines))}")
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _names(lines: Sequence[Line]) -> list[str]:
    return [letter(line.run) for line in lines]


def _axes(across: Axis, up: Axis, name: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in up.ticks():
        y = _y(up, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 7}" y="{y + 4:.1f}">{_number(value)}</text>')
    for kimg in across.ticks():
        x = _x(across, kimg)
        parts.append(
            f'<line class="tick" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>'
        )
        parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 17}">{_number(kimg)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(f'<text class="mid name" x="{middle_x}" y="{_HEIGHT - 6}">kimg</text>')
    scale = ", logarithmic" if up.is_log else ""
    parts.append(
        f'<text class="mid name" transform="translate(13 {middle_y}) rotate(-90)">'
        f"{escape(name)}{scale}</text>"
    )
    return "".join(parts)


def _line(line: Line, across: Axis, up: Axis) -> str:
    places = [_place(point, across, up) for point in line.points]
    parts = []
    if len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}"/>')
    parts += [_bar(point, across, up) for point in line.points if point.error]
    if len(places) <= _MANY:
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{_told(line.run, p)}</title></circle>'
            for p, (x, y) in zip(line.points, places, strict=True)
        ]
    return f'<g class="r{line.run}">{"".join(parts)}</g>'


def _band(line: Line, across: Axis, up: Axis) -> str:
    xs = [_x(across, point.kimg) for point in line.points]
    top = [f"{x:.1f},{_y(up, v):.1f}" for x, v in zip(xs, line.high, strict=True)]
    low = [f"{x:.1f},{_y(up, v):.1f}" for x, v in zip(xs, line.low, strict=True)]
    return f'<g class="r{line.run}"><polygon points="{" ".join(top + low[::-1])}"/></g>'


def _bar(point: Point, across: Axis, up: Axis) -> str:
    x = _x(across, point.kimg)
    ends = [_y(up, point.value + side * 2 * (point.error or 0)) for side in (-1, 1)]
    whisker = "".join(f"M{x - 4:.1f} {y:.1f}h8" for y in ends)
    return f'<path d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}{whisker}"/>'


def _letters(lines: Sequence[Line], across: Axis, up: Axis) -> list[str]:
    """The letter of each run at the end of its line."""
    ends = sorted((_place(line.points[-1], across, up), line.run) for line in lines)
    columns: list[list[tuple[tuple[float, float], int]]] = []
    for end in ends:
        if columns and end[0][0] - columns[-1][0][0][0] < _SAME_END:
            columns[-1].append(end)
        else:
            columns.append([end])
    return [text for column in columns for text in _letter_column(column)]


def _letter_column(ends: Sequence[tuple[tuple[float, float], int]]) -> list[str]:
    """Letters of lines that end at about the same age, moved apart where they are close."""
    x = max(place[0] for place, _ in ends) + 7
    # From the top down, but so that the lowest still has room.
    room, last, parts = _HEIGHT - _BOTTOM - _LETTER_GAP * (len(ends) - 1), -float(_LETTER_GAP), []
    for index, ((_, y), run) in enumerate(sorted(ends, key=lambda end: end[0][1])):
        last = min(max(y, last + _LETTER_GAP), room + _LETTER_GAP * index)
        parts.append(
            f'<text class="letter t{run}" x="{x:.1f}" y="{last + 4:.1f}">{letter(run)}</text>'
        )
    return parts


def _told(run: int, point: Point) -> str:
    error = f" ± {point.error:.2g}" if point.error else ""
    return escape(f"{letter(run)}: {point.value:.5g}{error} at {point.kimg:g} kimg")


def _place(point: Point, across: Axis, up: Axis) -> tuple[float, float]:
    return _x(across, point.kimg), _y(up, point.value)


def _x(axis: Axis, kimg: float) -> float:
    return _LEFT + axis.place(kimg) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _TOP + (1 - axis.place(value)) * (_HEIGHT - _TOP - _BOTTOM)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
