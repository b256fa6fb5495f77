"""Random parameters of augmentations, drawn on the CPU in few operations, and their matrices.

Arithmetic on the few numbers of a batch costs a microsecond in NumPy, and the host time of an op in
torch. Random numbers and transcendental functions are those of torch, so that the results are the
same, bit for bit, as of a computation by torch alone.
"""

from collections import deque
from collections.abc import Callable
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow import distributed

Numbers = NDArray[np.float64]
Choices = NDArray[np.bool_]


class RandomParameters:
    """Random values of a batch: one per image, shape [N], float64.

    A percentile q replaces the random values by fixed ones, for tests and demonstrations: a uniform
    value by its q-quantile, a normal one by ``erfinv(2q - 1)`` (without the sqrt 2). Then every
    transform whose multiplier is not 0 is applied.

    Args:
        num_images: N.
        p: strength of the augmentation; values above 1 count as 1.
        percentile: q in [0, 1]; None: random values.
        kinds: of the first random numbers that will be asked for, in their order, as in
            ``Recorder``: drawn now, together. Any others are drawn one by one.
    """

    def __init__(
        self, num_images: int, p: float, percentile: float | None, kinds: str = ""
    ) -> None:
        self.num_images = num_images
        self.p = p
        self.percentile = percentile
        self._drawn: deque[Numbers] = deque(() if percentile is not None else self._draw(kinds))

    def applied(self, multiplier: float) -> Choices:
        """Whether a transform with this multiplier is applied: bool [N]."""
        return self.applied_with(min(self.p * multiplier, 1.0), multiplier)

    def applied_with(self, probability: float, multiplier: float) -> Choices:
        """As ``applied``, with a probability other than ``p * multiplier``."""
        if self.percentile is not None:
            return np.full(self.num_images, multiplier > 0)
        return self._uniform() < probability

    def uniform(self, low: float = 0, high: float = 1) -> Numbers:
        """U(low, high)."""
        return low + (high - low) * self._uniform()

    def choice(self, count: int) -> Numbers:
        """A whole number from 0 to count - 1, as a float."""
        return np.minimum(np.floor(self._uniform() * count), count - 1)

    def normal(self, std: float) -> Numbers:
        """N(0, std^2)."""
        if self.percentile is None:
            return self._next("n") * std
        return by_torch(torch.erfinv, self._uniform() * 2 - 1) * std

    def half_normal(self, std: float) -> Numbers:
        """|N(0, std^2)|."""
        if self.percentile is None:
            return np.abs(self.normal(std))
        return by_torch(torch.erfinv, self._uniform()) * std

    def _uniform(self) -> Numbers:
        if self.percentile is None:
            return self._next("u")
        return np.full(self.num_images, self.percentile)

    def _next(self, kind: str) -> Numbers:
        return self._drawn.popleft() if self._drawn else self._draw(kind)[0]

    def _draw(self, kinds: str) -> list[Numbers]:
        parts = []
        for kind, run in groupby(kinds):
            count = len(list(run))
            if kind == "u":
                parts.append(distributed.rand_rows(count, self.num_images))
            else:  # one call each: torch draws normal numbers in blocks that depend on their count
                parts += [distributed.randn([self.num_images])[None] for _ in range(count)]
        return list(torch.cat(parts).numpy().astype(np.float64)) if parts else []


class Recorder(RandomParameters):
    """Notes which random numbers are asked for, and gives zeros.

    Attributes:
        kinds: a letter for each: 'u' uniform, 'n' normal.
    """

    def __init__(self) -> None:
        super().__init__(1, 1.0, None)
        self.kinds = ""

    def _next(self, kind: str) -> Numbers:
        self.kinds += kind
        return np.zeros(1)


def where(applied: Choices, value: Numbers | float) -> Numbers:
    """The values where a transform is applied, 0 elsewhere."""
    return np.where(applied, value, 0.0)


def by_torch(function: Callable[[torch.Tensor], torch.Tensor], values: Numbers) -> Numbers:
    """A function of torch on float64 numbers [N]."""
    result: Numbers = function(torch.from_numpy(values)).numpy()
    return result


def cos_sin(angles: Numbers) -> tuple[Numbers, Numbers]:
    """The cosines and sines of torch."""
    radians = torch.from_numpy(angles)
    return radians.cos().numpy(), radians.sin().numpy()


def product(*factors: Numbers) -> Numbers:
    """The matrix product of [..., n, m], from left to right; sums in order, without fused adds."""
    result = factors[0]
    for factor in factors[1:]:
        terms = [result[..., :, k, None] * factor[..., None, k, :] for k in range(factor.shape[-2])]
        result = terms[0]
        for term in terms[1:]:
            result = result + term
    return result


def matrix_of(rows: list[list[Numbers | float]]) -> Numbers:
    """[n, n] from numbers, or [N, n, n] where some are arrays [N]."""
    values = [np.asarray(value, dtype=np.float64) for row in rows for value in row]
    return np.stack(np.broadcast_arrays(*values), axis=-1).reshape(-1, len(rows), len(rows))


def identity(count: int, size: int) -> Numbers:
    """``count`` identity matrices."""
    return np.tile(np.eye(size), (count, 1, 1))


def is_identity(matrix: Numbers) -> bool:
    """Whether every matrix [N, n, n] is the identity."""
    return bool((matrix == np.eye(matrix.shape[-1])).all())
