"""Whether a result is better than another one, worse, or the same within their errors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sg3flow.metrics.identity import differing_conditions

# A difference counts from so many standard errors: of two equal networks, 1 in 40 would pass.
ERRORS_APART = 2.0

BETTER, WORSE, NOISE = "better", "worse", "within noise"
NOT_COMPARABLE, NOT_MEASURED = "not comparable", "not measured"

# A row without these does not say what it was measured against.
_IDENTITY = ("reference_sha256", "detector_sha256", "higher_is_better")


@dataclass(frozen=True)
class Verdict:
    """How a result stands to another one.

    Attributes:
        word: ``better``, ``worse``, ``within noise``, ``not comparable`` or ``not measured``.
        reason: a plain sentence for it.
    """

    word: str
    reason: str

    @property
    def is_compared(self) -> bool:
        """Whether the two numbers were held against each other at all."""
        return self.word in (BETTER, WORSE, NOISE)


def judge_results(result: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> Verdict:
    """Hold a result against another one of the same metric.

    A difference counts beyond twice the root of both squared standard errors. A result that carries
    no error counts as exact.

    Args:
        result, base: rows of ``reports/metrics.json``; None: not measured.
    """
    if result is None or base is None:
        return Verdict(NOT_MEASURED, "one of the two was not measured by this metric")
    reason = why_not_comparable(result, base)
    if reason:
        return Verdict(NOT_COMPARABLE, reason)
    new, old = float(result["value"]), float(base["value"])
    gain = new - old if result["higher_is_better"] else old - new
    margin = ERRORS_APART * math.hypot(standard_error(result) or 0, standard_error(base) or 0)
    apart = "equal" if gain == 0 else f"{abs(gain):.3g} apart, noise reaches {margin:.2g}"
    if abs(gain) <= margin:
        return Verdict(NOISE, apart)
    return Verdict(BETTER if gain > 0 else WORSE, apart)


def why_not_comparable(result: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """In words, what keeps two rows of one metric from being compared; empty: nothing."""
    for row in (result, base):
        missing = [key for key in _IDENTITY if key not in row]
        if missing:
            return "it was not recorded what it was measured against"
        if not math.isfinite(float(row["value"])):
            return "a value is not a finite number"
    if result["higher_is_better"] != base["higher_is_better"]:
        return "they disagree on whether higher is better"
    differing = differing_conditions(result, base)
    verb = "differs" if len(differing) == 1 else "differ"
    return f"{' and '.join(differing)} {verb}" if differing else ""


def standard_error(row: Mapping[str, Any]) -> float | None:
    """The standard error of a row; None: it carries none."""
    error = row.get("standard_error")
    return float(error) if isinstance(error, int | float) and math.isfinite(error) else None
