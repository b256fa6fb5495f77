"""Where a command may write: two of its outputs never share one path."""

from collections.abc import Mapping
from pathlib import Path

from sg3flow.errors import DataError


def check_distinct(outputs: Mapping[str, Path]) -> None:
    """Check that no two outputs, given by the options that name them, are one file.

    Raises:
        DataError: the second would replace the first.
    """
    options: dict[Path, str] = {}
    for option, path in outputs.items():
        other = options.setdefault(path.resolve(), option)
        if other != option:
            raise DataError(f"{other} and {option} are both {path}; pass different paths")
