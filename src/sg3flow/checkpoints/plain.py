"""Plain values: what may stand beside tensors in a snapshot, in one canonical form.

None, booleans, whole numbers, floats, texts, lists, and dicts with text keys. The canonical form
makes equal values equal bytes under pickle, which remembers objects by identity, not by value.
"""

import sys
from collections.abc import Mapping
from typing import Any

from sg3flow.errors import CheckpointError

_MAX_VALUES = 200_000
_MAX_DEPTH = 32


def plain(value: Any, where: str) -> Any:
    """A canonical copy: exact types, interned texts, lists for tuples, dicts sorted by key.

    Args:
        value: nested plain values; numpy and torch scalars count as numbers.
        where: what the value is, for the message.

    Raises:
        CheckpointError: another type, a key that is no text, or too deep or too large a value (one
            that is small in a file may be huge when walked: lists may hold the same list often).
    """
    return _Copier(where).copy(value, 0)


def plain_dict(value: Any, where: str) -> dict[str, Any]:
    """As ``plain``, for a value that must be a dict."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where} must be a dict, not {type(value).__name__}")
    copied: dict[str, Any] = plain(value, where)
    return copied


def text(value: str) -> str:
    """The one object that stands for this text in the whole process."""
    return sys.intern(str.__str__(value))


def shown(value: Any) -> str:
    """A value in a message; of a nested one the type only, for it may be endless to print."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None or isinstance(value, float) or _is_sane_integer(value):
        return repr(value)
    return f"a {type(value).__name__}"


def _is_sane_integer(value: Any) -> bool:
    # One of many digits cannot even be printed.
    return isinstance(value, int) and -(1 << 63) <= value < 1 << 63


class _Copier:
    def __init__(self, where: str) -> None:
        self.where = where
        self.left = _MAX_VALUES

    def copy(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > _MAX_DEPTH:
            raise CheckpointError(f"{self.where} is nested too deep or holds too many values")
        if isinstance(value, Mapping):
            return self._copy_mapping(value, depth)
        if isinstance(value, list | tuple):
            return [self.copy(item, depth + 1) for item in value]
        if isinstance(value, str):
            return text(value)
        return self._copy_number(value)

    def _copy_mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        strange = next((key for key in value if not isinstance(key, str)), None)
        if strange is not None:
            raise CheckpointError(f"{self.where} has a key that is no text: {shown(strange)}")
        return {text(key): self.copy(value[key], depth + 1) for key in sorted(value)}

    def _copy_number(self, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()  # a numpy or torch scalar
        for kind in (bool, int, float):
            if isinstance(value, kind) and (kind is float or _is_sane_integer(value)):
                return kind(value)
        if isinstance(value, str):
            return text(value)
        raise CheckpointError(f"{self.where} holds {shown(value)}, which is no plain value")
