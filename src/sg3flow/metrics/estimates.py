"""Numbers with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

BLOCKS = 10  # of generated pictures, for errors by leaving one out


@dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
        value: what was measured.
        standard_error: how far it would scatter had other pictures been generated, the reference
            being what it is; None: too few pictures to tell.
    """

    value: float
    standard_error: float | None


def mean_estimate(samples: ArrayLike) -> Estimate:
    """The mean of independent values, and its standard error."""
    values = np.asarray(samples, dtype=np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(values.mean()), error)


def ratio_estimate(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Ratio of two sums over the same independent groups; error by linearising it.

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
    """Start and end of the blocks that are left out in turn; one block where items are few."""
    blocks = BLOCKS if count >= 2 * BLOCKS else 1
    edges = [count * block // blocks for block in range(blocks + 1)]
    return list(pairwise(edges))


def jackknife_error(left_out: Sequence[float]) -> float | None:
    """Standard error from values with each block left out in turn (Tukey 1958); None: no blocks."""
    if len(left_out) < 2:
        return None
    values = np.asarray(left_out, dtype=np.float64)
    return float(math.sqrt((len(values) - 1) * values.var()))
