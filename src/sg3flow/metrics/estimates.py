"""Values with standard errors, and the comparison of two such values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sg3flow.metrics.error_terms import NO_TERMS, Terms
from sg3flow.runs.best_snapshot import differing_conditions

BLOCKS = 10  # blocks of generated images, for jackknife errors
# Standard errors by which two values must differ: 1 in 40 pairs of equal networks would pass.
ERRORS_APART = 2.0
BETTER, WORSE, NOISE = "better", "worse", "within noise"
PAIRED, UNPAIRED = "paired", "unpaired"
_MOST_IMAGES, _BEYOND = 1_000_000, 10**15  # more than the first would be asked of nobody
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
        terms: what each independent part of the sample (an image, a group of images) adds to the
            deviation of the value, ``[parts]``, such that the sum of squares is the squared
            standard error. For two networks that were drawn from the same seeds, the sum of squares
            of the differences is the squared error of the difference. None: the error is unknown.
    """

    value: float
    standard_error: float | None
    terms: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)


def mean_estimate(samples: ArrayLike, kept: NDArray[np.bool_] | None = None) -> Estimate:
    """The mean of independent values, and its standard error.

    Args:
        kept: which of all parts of the sample the values are of, bool ``[parts]``; the others have
            terms of 0. None: of all.
    """
    values = np.asarray(samples, dtype=np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), None)
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    terms = np.zeros(len(values) if kept is None else len(kept))
    scale = math.sqrt(len(values) * (len(values) - 1))
    terms[slice(None) if kept is None else kept] = (values - values.mean()) / scale
    return Estimate(float(values.mean()), error, terms)


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
    deviations = top - ratio * bottom
    squares = float(np.square(deviations).sum())
    error = math.sqrt(squares * groups / (groups - 1)) / abs(total)
    return Estimate(ratio, error, deviations * (math.sqrt(groups / (groups - 1)) / total))


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


def jackknife_terms(left_out: Sequence[float]) -> NDArray[np.float64] | None:
    """The error terms of blocks, from values with each left out in turn; None: no blocks."""
    if len(left_out) < 2:
        return None
    values = np.asarray(left_out, dtype=np.float64)
    terms: NDArray[np.float64] = values.mean() - values
    return terms * math.sqrt((len(values) - 1) / len(values))


@dataclass(frozen=True)
class ComparisonResult:
    """The outcome of comparing one result with another.

    Attributes:
        word: ``better``, ``worse``, ``within noise``, ``not comparable`` or ``not measured``.
        reason: explanation for people.
        gain: difference of the values, positive: better; 0 without a comparison.
        noise: up to which a difference counts as noise: twice its standard error.
        how: how the noise was found, ``paired`` or ``unpaired``; empty without a comparison.
    """

    word: str
    reason: str
    gain: float = 0.0
    noise: float = 0.0
    how: str = ""

    @property
    def is_compared(self) -> bool:
        """Whether the two values were comparable."""
        return self.word in (BETTER, WORSE, NOISE)


def compare_results(
    result: Mapping[str, Any] | None, base: Mapping[str, Any] | None, terms: Terms = NO_TERMS
) -> ComparisonResult:
    """Compare a result with another one of the same metric.

    A difference is significant beyond twice its standard error, see ``error_of_difference``.

    Args:
        result, base: rows of ``reports/evaluation.json``; None: not measured.
        terms: error terms of both rows by digest, as far as they are known.
    """
    if result is None or base is None:
        return ComparisonResult(NOT_MEASURED, "one of the two runs did not measure this metric")
    reason = why_not_comparable(result, base)
    if reason:
        return ComparisonResult(NOT_COMPARABLE, reason)
    new, old = float(result["value"]), float(base["value"])
    gain = new - old if result["higher_is_better"] else old - new
    error, how = error_of_difference(result, base, terms)
    noise = ERRORS_APART * error
    apart = f"difference {abs(gain):.3g}, noise up to {noise:.2g}, {how}" if gain else "equal"
    word = NOISE if abs(gain) <= noise else BETTER if gain > 0 else WORSE
    return ComparisonResult(word, apart, gain, noise, how)


def error_of_difference(
    result: Mapping[str, Any], base: Mapping[str, Any], terms: Terms
) -> tuple[float, str]:
    """The standard error of the difference of two comparable rows, and how it was found.

    ``paired`` if the error terms of both rows are known: both networks were drawn from the same
    seeds, so that term i is of the same latents and labels on both sides, and what both have in
    common cancels. Otherwise ``unpaired``: the root of the sum of the squared standard errors,
    where a result without an error counts as exact.
    """
    new, old = (terms.get(str(row.get("error_terms"))) for row in (result, base))
    if new is not None and old is not None and len(new) == len(old):
        difference = new.astype(np.float64) - old
        return float(np.sqrt(np.square(difference).sum())), PAIRED
    return math.hypot(standard_error(result) or 0, standard_error(base) or 0), UNPAIRED


def images_to_tell(count: int, outcome: ComparisonResult) -> int | None:
    """How many images would show a difference as large as the one found within the noise.

    The error falls with the root of the number. Rounded up to two digits; None: no number would,
    or none is needed.
    """
    if outcome.word != NOISE or outcome.gain == 0:
        return None
    ratio = outcome.noise / abs(outcome.gain)
    wanted = count * ratio * ratio  # not a power, which raises an error for infinity
    if not wanted < _BEYOND:
        return _BEYOND
    step = int(10 ** max(len(str(math.ceil(wanted))) - 2, 0))
    return math.ceil(wanted / step) * step


def too_few_images(row: Mapping[str, Any], outcome: ComparisonResult) -> str:
    """How many images would tell two results apart, for people; empty: they are told apart.

    Beyond the images of the reference set the number says nothing: a difference that is so small is
    less than what another sample of as many reals would make.

    Args:
        row: one of the compared rows.
        outcome: of ``compare_results``.
    """
    count = row.get("num_generated")
    wanted = images_to_tell(count, outcome) if isinstance(count, int) else None
    if wanted is None:
        return ""
    reals = row.get("num_reference")
    name = f"{count:,} images are too few for a difference of {abs(outcome.gain):.2g} in "
    name += f"{row['metric']}: "
    if wanted > _MOST_IMAGES:
        return f"{name}more than {_MOST_IMAGES:,} would be needed; count the two as equal"
    if isinstance(reals, int) and wanted > reals:
        return (
            f"{name}about {wanted:,} would be needed, more than the {reals:,} of the reference "
            "set; count the two as equal"
        )
    return f"{name}about {wanted:,} would show it"


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
