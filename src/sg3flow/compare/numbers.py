"""A result as text."""

from collections.abc import Mapping
from typing import Any

from sg3flow.metrics.verdict import standard_error


def value_text(row: Mapping[str, Any]) -> str:
    """A result with its standard error: ``4.272 ± 0.18``; as many digits as the error deserves."""
    error = standard_error(row)
    return f"{row['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
