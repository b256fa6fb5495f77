"""Axes: ranges with room around them, round ticks, and where a value lies between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_TICKS = 4
_MOST_DECADES = 1.7  # values that span more are drawn over a logarithmic axis


@dataclass(frozen=True)
class Axis:
    """A range of values and how it is drawn.

    Attributes:
        low, high: ends of what is drawn; low < high.
        is_log: whether equal lengths are equal ratios.
    """

    low: float
    high: float
    is_log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], *, may_be_log: bool = False) -> "Axis":
        """An axis with room for all values, which are finite and at least one."""
        low, high = min(values), max(values)
        if may_be_log and low > 0 and math.log10(high) - math.log10(low) > _MOST_DECADES:
            return cls(low / 1.2, high * 1.2, True)
        size = max(abs(low), abs(high), 1e-9)
        margin = 0.05 * (high - low) if high - low > 1e-9 * size else 0.1 * size
        return cls(low - margin, high + margin)

    @classmethod
    def of_ages(cls, kimgs: Sequence[float]) -> "Axis":
        """The axis of kimg: without room on the left of the first report."""
        low, high = min(kimgs), max(kimgs)
        return cls(low, high if high - low > 1e-9 * max(high, 1) else low + 1)

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end; values outside at the ends."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round numbers within the range, rising."""
        return self._decades() if self.is_log else self._steps()

    def _decades(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = math.ceil((last - first) / 6)
        parts = (1, 2, 5) if last - first <= 4 else (1,)
        powers = range(first, last + 1, every)
        numbers = [part * 10.0**power for power in powers for part in parts]
        return [number for number in numbers if self.low <= number <= self.high]

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((power * m for m in (1, 2, 5, 10)), key=lambda each: abs(each - rough))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [k * step for k in range(first, last + 1)]
