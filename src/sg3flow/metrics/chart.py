"""A picture of every metric against the age of the snapshots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sg3flow.metrics.results import MetricResult

_SCALE = 2  # drawn larger and brought down, for smooth lines
_WIDTH, _HEIGHT = 720, 220  # a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 34, 34
_PAPER, _INK, _FAINT, _LINE, _BEST = "#ffffff", "#222222", "#dddddd", "#2457a6", "#c2410c"
_TEXT = 13
_TICKS = 4


def draw_chart(results: Sequence[MetricResult], best: MetricResult) -> Image.Image:
    """One panel a metric: value and twice its standard error against kimg, the best ringed.

    Args:
        results: of snapshots whose kimg is known.
        best: of them; its snapshot is ringed in every panel.
    """
    names = list(dict.fromkeys(result.metric for result in results))
    sheet = Image.new("RGB", (_WIDTH * _SCALE, _HEIGHT * len(names) * _SCALE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        rows = sorted((r for r in results if r.metric == name), key=lambda r: r.kimg or 0)
        _Panel.of(rows, row * _HEIGHT).draw(draw, rows, best)
    return sheet.resize((_WIDTH, _HEIGHT * len(names)), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Panel:
    """Where values lie: ranges of both axes, and the panel's upper edge."""

    kimg: tuple[float, float]
    value: tuple[float, float]
    top: int

    @classmethod
    def of(cls, rows: Sequence[MetricResult], top: int) -> "_Panel":
        ages = [float(row.kimg or 0) for row in rows]
        ends = [row.value + side * _reach(row) for row in rows for side in (-1, 1)]
        return cls(_widened(min(ages), max(ages)), _widened(min(ends), max(ends)), top)

    def draw(
        self, draw: ImageDraw.ImageDraw, rows: Sequence[MetricResult], best: MetricResult
    ) -> None:
        self._draw_axes(draw, rows[0])
        points = [self._place(float(row.kimg or 0), row.value) for row in rows]
        if len(points) > 1:
            draw.line(points, _LINE, 2 * _SCALE, joint="curve")
        for row, (x, y) in zip(rows, points, strict=True):
            ends = [self._place(0, row.value + side * _reach(row))[1] for side in (-1, 1)]
            draw.line([(x, ends[0]), (x, ends[1])], _LINE, _SCALE)
            _dot(draw, x, y, 3, _LINE)
            if row.snapshot == best.snapshot:
                draw.circle((x, y), 7 * _SCALE, outline=_BEST, width=2 * _SCALE)

    def _draw_axes(self, draw: ImageDraw.ImageDraw, row: MetricResult) -> None:
        font = ImageFont.load_default(_TEXT * _SCALE)
        for value in _ticks(*self.value):
            left, right = self._place(self.kimg[0], value), self._place(self.kimg[1], value)
            draw.line([left, right], _FAINT, _SCALE)
            place = (left[0] - 8 * _SCALE, left[1])
            draw.text(place, f"{value:.6g}", _INK, font, anchor="rm")
        for kimg in _ticks(*self.kimg):
            x, y = self._place(kimg, self.value[0])
            draw.text((x, y + 6 * _SCALE), f"{kimg:g}", _INK, font, anchor="mt")
        x, y = self._place(self.kimg[0], self.value[1])
        better = "higher" if row.higher_is_better else "lower"
        title = f"{row.metric}  ({better} is better; bars: 2 standard errors; x: kimg)"
        draw.text((x, y - 8 * _SCALE), title, _INK, font, anchor="ls")

    def _place(self, kimg: float, value: float) -> tuple[float, float]:
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        across = (kimg - self.kimg[0]) / (self.kimg[1] - self.kimg[0])
        up = (value - self.value[0]) / (self.value[1] - self.value[0])
        y = self.top + _TOP + (1 - up) * height
        return (_LEFT + across * width) * _SCALE, y * _SCALE


def _reach(row: MetricResult) -> float:
    return 2 * (row.standard_error or 0)


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or max(abs(low), 1.0) * 0.1
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * m for m in (1, 2, 5, 10)), key=lambda each: abs(each - rough))
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: str) -> None:
    draw.circle((x, y), radius * _SCALE, fill=colour)
