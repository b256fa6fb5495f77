"""Settings as text, so that the same setting reads the same wherever it was recorded.

MLflow keeps ``True``, ``0.20`` and ``['none']`` as texts; a JSON file keeps values.
"""

import ast
import re
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def canonical(value: Any) -> str:
    """A setting as text: equal for equal values, whether they come as values or as texts."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(canonical, value))
    if value is None:
        return "none"
    return _of_text(str(value).strip())


def _of_text(text: str) -> str:
    if text in ("True", "False", "None"):
        return text.lower()
    if len(text) < 30 and _NUMBER.fullmatch(text):
        return _number(float(text) if re.search("[.eE]", text) else int(text))
    if text[:1] in "[(" and text[-1:] in "])" and text:
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
        return canonical(listed) if isinstance(listed, list | tuple) else text
    return text


def _number(value: float) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return repr(value)
