"""Values with standard errors, and the comparison of two such values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sg3flow.runs.best_snapshot import differing_conditions

BLOCKS = 10  # blocks of generated images, for jackknife errors
# Standard errors by which two values must differ: 1 in 40 pairs of equal networks would pass.
ERRORS_APART = 2.0
BETTER, WORSE, NOISE = "better", "worse", "within noise"
NOT_COMPARABLE, NOT_MEASURED = "not comparable", "not measured"
# A row without these keys does not record what it was measured against.
_IDENTITY = ("reference_sha256", "detector_sha256", "higher_is_better")


@dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
        value: what was measured.
        standard_error: standard error over generated samples, with the reference fixed; None: too
            few images.
    """

    value: float
    standard_error: float | None


def mean_estimate(samples: ArrayLike) -> Estimate:
    """The mean of independent values, and its standard error."""
    values = np.asarray(samples, dtype=np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(values.mean()), error)


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Ratio of two sums over the same independent groups; its error by linearization.

    Raises:
        ZeroDivisionError: the denominators sum to zero.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    total, groups = float(bottom.sum()), len(top)
    ratio = float(top.sum()) / total
    if groups < 2:
        return Estimate(ratio, None)
    squares = float(np.square(top - ratio * bottom).sum())
    return Estimate(ratio, math.sqrt(squares * groups / (groups - 1)) / abs(total))


def block_bounds(count: int) -> list[tuple[int, int]]:
    """Start and end of each jackknife block; one block if there are few items."""
    blocks = BLOCKS if count >= 2 * BLOCKS else 1
    edges = [count * block // blocks for block in range(blocks + 1)]
    return list(pairwise(edges))


def jackknife_error(left_out: Sequence[float]) -> float | None:
    """Standard error from values with each block left out in turn (Tukey 1958); None: no blocks."""
    if len(left_out) < 2:
        return None
    values = np.asarray(left_out, dtype=np.float64)
    return float(math.sqrt((len(values) - 1) * values.var()))


@dataclass(frozen=True)
class ComparisonResult:
    """The outcome of comparing one result with another.

    Attributes:
        word: ``better``, ``worse``, ``within noise``, ``not comparable`` or ``not measured``.
        reason: explanation for people.
    """

    word: str
    reason: str

    @property
    def is_compared(self) -> bool:
        """Whether the two values were comparable."""
        return self.word in (BETTER, WORSE, NOISE)


def compare_results(
    result: Mapping[str, Any] | None, base: Mapping[str, Any] | None
) -> ComparisonResult:
    """Compare a result with another one of the same metric.

    A difference is significant beyond twice the combined standard error (root of the sum of
    squares). A result without an error counts as exact.

    Args:
        result, base: rows of ``reports/evaluation.json``; None: not measured.
    """
    if result is None or base is None:
        return ComparisonResult(NOT_MEASURED, "one of the two runs did not measure this metric")
    reason = why_not_comparable(result, base)
    if reason:
        return ComparisonResult(NOT_COMPARABLE, reason)
    new, old = float(result["value"]), float(base["value"])
    gain = new - old if result["higher_is_better"] else old - new
    margin = ERRORS_APART * math.hypot(standard_error(result) or 0, standard_error(base) or 0)
    apart = "equal" if gain == 0 else f"difference {abs(gain):.3g}, noise up to {margin:.2g}"
    if abs(gain) <= margin:
        return ComparisonResult(NOISE, apart)
    return ComparisonResult(BETTER if gain > 0 else WORSE, apart)


def why_not_comparable(result: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Why two rows of one metric cannot be compared; empty: they can."""
    for row in (result, base):
        missing = [key for key in _IDENTITY if key not in row]
        if missing:
            return "what it was measured against is not recorded"
        if not math.isfinite(float(row["value"])):
            return "a value is not finite"
    if result["higher_is_better"] != base["higher_is_better"]:
        return "they disagree on whether higher is better"
    differing = differing_conditions(result, base)
    verb = "differs" if len(differing) == 1 else "differ"
    return f"{' and '.join(differing)} {verb}" if differing else ""


def standard_error(row: Mapping[str, Any]) -> float | None:
    """The standard error of a row; None: it has none."""
    error = row.get("standard_error")
    return float(error) if isinstance(error, int | float) and math.isfinite(error) else None
