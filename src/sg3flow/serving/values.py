"""Numbers and vectors of a request, taken only if they are exactly what was asked for."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from sg3flow.errors import ConfigError


def number(label: str, value: Any, limit: float) -> float:
    """A number from ``-limit`` to ``limit``.

    Raises:
        ConfigError: anything else; so do the others here.
    """
    # Written so that NaN, which compares false with everything, is refused too.
    if not (_is_number(value) and -limit <= value <= limit):
        allowed = f"from {-limit:g} to {limit:g}"
        raise ConfigError(f"{label} must be a number {allowed}, not {shown(value)}")
    return float(value)


def whole(label: str, value: Any, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``."""
    # A float is taken if it is whole: JSON's 1.0, and pandas' only way to hold a column with gaps.
    if not (_is_number(value) and low <= value <= high and int(value) == value):
        allowed = f"from {low} to {high}"
        raise ConfigError(f"{label} must be a whole number {allowed}, not {shown(value)}")
    return int(value)


def vector(label: str, value: Any, length: int, limit: float) -> tuple[float, ...]:
    """A list of exactly ``length`` numbers."""
    items = _items(value)
    if items is None or len(items) != length:
        found = shown(value) if items is None else f"{len(items)}"
        raise ConfigError(f"{label} must be a list of {length} numbers, not {found}")
    return tuple(number(f"{label}[{i}]", item, limit) for i, item in enumerate(items))


def vectors(
    label: str, value: Any, count: int, length: int, limit: float
) -> tuple[tuple[float, ...], ...]:
    """A list of ``length`` numbers, or of ``count`` such lists."""
    items = _items(value)
    if items and _items(items[0]) is not None:
        if len(items) != count:
            raise ConfigError(f"{label} must hold one list or {count}, not {len(items)} of them")
        return tuple(vector(f"{label}[{i}]", item, length, limit) for i, item in enumerate(items))
    return (vector(label, value, length, limit),)


def shown(value: Any) -> str:
    """A value for an error message: short, and harmless in a terminal."""
    item = value.item() if isinstance(value, np.generic) else value
    if isinstance(item, int) and abs(item) >= 10**60:
        return "a huge number"  # its digits may take minutes to write
    if isinstance(item, list | tuple | dict | np.ndarray):
        return f"a {'object' if isinstance(item, dict) else 'list'} of {len(item)}"
    return ascii(item)[:60]


def _items(value: Any) -> Sequence[Any] | None:
    if isinstance(value, np.ndarray):
        return list(value)
    return value if isinstance(value, list | tuple) else None


def _is_number(value: Any) -> bool:
    # bool is an int to Python, and numpy's bool a number to nobody: neither is a seed.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
