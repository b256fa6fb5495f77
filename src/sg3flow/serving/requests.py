"""Strict reading of what a client sends: rows of columns, and parameters for all rows.

Everything wrong is a ConfigError with one sentence; nothing is guessed, rounded or left out.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from sg3flow.errors import ConfigError, nearest
from sg3flow.rendering.images import Look
from sg3flow.rendering.seeds import MAX_SEED
from sg3flow.serving.predictor import Request

MAX_BATCH = 64
MAX_PSI = 2.0
MAX_SHIFT = 10.0
MAX_DEGREES = 360.0

# Name -> the value that holds where neither row nor parameters give one; None: not set.
PARAMS: dict[str, float | None] = {
    "psi": 1.0,
    "class": None,
    "translate_x": 0.0,
    "translate_y": 0.0,
    "rotate": 0.0,
}
COLUMNS = ("seed", *PARAMS)


def read_requests(
    rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any], num_classes: int
) -> list[Request]:
    """Check rows and parameters and make requests of them; a row's value wins over the parameter.

    Args:
        rows: one a picture; ``seed`` and any of ``PARAMS``.
        params: any of ``PARAMS``, for all rows.
        num_classes: classes the generator knows; 0 for an unlabelled one.

    Raises:
        ConfigError: says which value of which row is wrong, and what was expected.
    """
    if not rows:
        raise ConfigError("the request holds no rows; give at least one, like {'seed': 1}")
    if len(rows) > MAX_BATCH:
        raise ConfigError(f"at most {MAX_BATCH} pictures a request, not {len(rows)}; send several")
    check_names("param", params, tuple(PARAMS))
    given = {name: value for name, value in params.items() if value is not None}
    return [_request(f"row {i}", {**given, **row}, num_classes) for i, row in enumerate(rows)]


def check_names(kind: str, given: Mapping[str, Any] | Sequence[str], known: Sequence[str]) -> None:
    """Refuse names nobody knows: a misspelt ``psi`` would silently give another picture.

    Raises:
        ConfigError: an unknown name.
    """
    for name in given:
        if name not in known:
            hint = nearest(str(name), known)
            raise ConfigError(f"unknown {kind} '{str(name)[:60]}'{hint}; known: {', '.join(known)}")


def _request(where: str, values: Mapping[str, Any], num_classes: int) -> Request:
    check_names("column", values, COLUMNS)
    if "seed" not in values:
        raise ConfigError(f"{where}: seed is missing")
    seed = _whole(f"{where}: seed", values["seed"], 0, MAX_SEED)
    look = Look(
        psi=_number(f"{where}: psi", values, "psi", MAX_PSI),
        translate=(
            _number(f"{where}: translate_x", values, "translate_x", MAX_SHIFT),
            _number(f"{where}: translate_y", values, "translate_y", MAX_SHIFT),
        ),
        rotate=_number(f"{where}: rotate", values, "rotate", MAX_DEGREES),
    )
    return Request(seed, look, _class_index(where, values.get("class"), num_classes))


def _class_index(where: str, value: Any, num_classes: int) -> int | None:
    if num_classes == 0:
        if value is not None:
            raise ConfigError(f"{where}: this model has no classes; leave class out")
        return None
    if value is None:
        raise ConfigError(f"{where}: class is missing; give one from 0 to {num_classes - 1}")
    return _whole(f"{where}: class", value, 0, num_classes - 1)


def _number(label: str, values: Mapping[str, Any], name: str, limit: float) -> float:
    value = values.get(name, PARAMS[name])
    # Written so that NaN, which compares false with everything, is refused too.
    if not (_is_number(value) and -limit <= value <= limit):
        allowed = f"from {-limit:g} to {limit:g}"
        raise ConfigError(f"{label} must be a number {allowed}, not {_shown(value)}")
    return float(value)


def _whole(label: str, value: Any, low: int, high: int) -> int:
    # A float is taken if it is whole: JSON's 1.0, and pandas' only way to hold a column with gaps.
    if not (_is_number(value) and low <= value <= high and int(value) == value):
        allowed = f"from {low} to {high}"
        raise ConfigError(f"{label} must be a whole number {allowed}, not {_shown(value)}")
    return int(value)


def _is_number(value: Any) -> bool:
    # bool is an int to Python, and numpy's bool a number to nobody: neither is a seed.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    item = value.item() if hasattr(value, "item") else value
    return repr(item)[:60]
