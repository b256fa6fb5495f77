"""Kernel distance (KID, Binkowski et al. 2018): squared MMD with kernel ``(x.y / F + 1)^3``."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, mean_estimate

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
_BLOCK = 512


@dataclass(frozen=True)
class SubsetPair:
    """Sums of kernels over a subset of ``a`` and one of ``b``, ``[size]`` each.

    Attributes:
        within_a, within_b: of each item, with the other items of its subset.
        across_a, across_b: of each item, with all items of the other subset.
    """

    within_a: Array
    within_b: Array
    across_a: Array
    across_b: Array

    @property
    def value(self) -> float:
        """The squared MMD, unbiased: sums within a set exclude an item with itself."""
        size = len(self.within_a)
        within = self.within_a.sum() + self.within_b.sum()
        return float(within / (size * (size - 1)) - 2 * self.across_a.mean() / size)

    @property
    def terms_a(self) -> Array:
        """What each item of ``a`` adds to the value, to first order."""
        return _terms(self.within_a, self.across_a)

    @property
    def terms_b(self) -> Array:
        """What each item of ``b`` adds to the value, to first order."""
        return _terms(self.within_b, self.across_b)


def _terms(within: Array, across: Array) -> Array:
    terms: Array = 2 * (within / (len(within) - 1) - across / len(across))
    return terms


def kernel_distance(
    feats_a: ArrayLike, feats_b: ArrayLike, num_subsets: int, subset_size: int, seed: int
) -> float:
    """Mean over random subsets of the unbiased squared MMD under the kernel ``(x.y / F + 1)^3``.

    Args:
        feats_a, feats_b: features, ``[N, F]`` and ``[M, F]``.
        num_subsets: number of pairs of subsets to average.
        subset_size: items per subset, drawn without replacement; at most the size of the smaller
            set.
        seed: seed of the draws.

    Raises:
        MetricError: fewer than two items, or different numbers of features.
    """
    return kernel_estimate(feats_a, feats_b, num_subsets, subset_size, seed).value


def kernel_estimate(
    feats_a: ArrayLike,
    feats_b: ArrayLike,
    num_subsets: int,
    subset_size: int,
    seed: int,
    draw_b_first: bool = False,
) -> Estimate:
    """The kernel distance with its standard error over draws of ``feats_b``.

    To first order the squared MMD is a mean over the items of ``b`` (Hoeffding 1948): twice the
    difference of their mean kernel with the other items of ``b`` and with ``a``. The subsets
    give the variance of these terms and the variance added by drawing subsets. After the error
    terms of the items of ``b`` come those of the subsets of ``a``, one each.

    Kernels are computed in blocks: those of all pairs once if the subsets together have more pairs
    than that, or else those of each pair of subsets.

    Args:
        draw_b_first: whether each subset of ``b`` is drawn before that of ``a``.
    """
    a, b = np.asarray(feats_a), np.asarray(feats_b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MetricError(f"expected two sets of features [N, F], found {a.shape} and {b.shape}")
    size = min(subset_size, len(a), len(b))
    if size < 2 or num_subsets < 1:
        raise MetricError(
            f"{num_subsets} subsets of {size} items; at least 1 subset of 2 items is needed"
        )
    random = np.random.RandomState(seed)
    drawn = [_drawn_pair(random, len(a), len(b), size, draw_b_first) for _ in range(num_subsets)]
    of_all = (len(a) ** 2 + len(b) ** 2) / 2 + len(a) * len(b)
    of_subsets = num_subsets * 2 * size**2
    pairs = pairs_of_all if of_all < of_subsets else pairs_of_subsets
    return _estimate(list(pairs(a, b, drawn)), drawn, len(a), len(b))


def _drawn_pair(
    random: np.random.RandomState, count_a: int, count_b: int, size: int, b_first: bool
) -> tuple[Indices, Indices]:
    if b_first:
        of_b = random.choice(count_b, size, replace=False)
        return random.choice(count_a, size, replace=False), of_b
    of_a = random.choice(count_a, size, replace=False)
    return of_a, random.choice(count_b, size, replace=False)


def _estimate(
    parts: list[SubsetPair], drawn: list[tuple[Indices, Indices]], count_a: int, count_b: int
) -> Estimate:
    found = np.array(
        [(part.value, part.terms_a.var(ddof=1), part.terms_b.var(ddof=1)) for part in parts]
    )
    value, variance_a, variance_b = found.mean(axis=0)
    size, num_subsets = len(drawn[0][0]), len(parts)
    # The part of the variance that averaging over subsets leaves.
    drawing = variance_a * (1 / size - 1 / count_a) + variance_b * (1 / size - 1 / count_b)
    error = math.sqrt(variance_b / count_b + drawing / num_subsets)
    terms = np.zeros(count_b)
    for part, (_, of_b) in zip(parts, drawn, strict=True):
        terms[of_b] += part.terms_b - part.terms_b.mean()
    terms *= math.sqrt(size / (size - 1)) / (size * num_subsets)
    means = mean_estimate([part.terms_a.mean() for part in parts]).terms
    whole = terms if means is None else np.concatenate([terms, means])
    return Estimate(float(value), error, whole)


def pairs_of_subsets(
    a: NDArray[np.floating], b: NDArray[np.floating], drawn: list[tuple[Indices, Indices]]
) -> Iterator[SubsetPair]:
    """The sums of each pair of subsets, from the kernels of its items.

    Args:
        a, b: features ``[N, F]`` and ``[M, F]``.
        drawn: numbers of the items of each pair of subsets.
    """
    for of_a, of_b in drawn:
        x, y = a[of_a].astype(np.float64), b[of_b].astype(np.float64)
        across = _kernel(x, y)
        yield SubsetPair(_within(x), _within(y), across.sum(axis=1), across.sum(axis=0))


def _within(x: Array) -> Array:
    kernel = _kernel(x, x)  # half the work: numpy sees that both factors are one array
    sums: Array = kernel.sum(axis=1) - kernel.diagonal()
    return sums


def pairs_of_all(
    a: NDArray[np.floating], b: NDArray[np.floating], drawn: list[tuple[Indices, Indices]]
) -> Iterator[SubsetPair]:
    """The same sums, from the kernels of all pairs of items, each of which is computed once.

    With ``S [N, subsets]`` the matrix of which item is in which subset, the sums of all items with
    all subsets are ``K S``. Memory is that of some such matrices.
    """
    members_a = _members(len(a), [of_a for of_a, _ in drawn])
    members_b = _members(len(b), [of_b for _, of_b in drawn])
    within_a, within_b = _sums_within(a, members_a), _sums_within(b, members_b)
    across_a, across_b = _sums_across(a, b, members_a, members_b)
    for number, (of_a, of_b) in enumerate(drawn):
        yield SubsetPair(
            within_a[of_a, number],
            within_b[of_b, number],
            across_a[of_a, number],
            across_b[of_b, number],
        )


def _members(count: int, subsets: list[Indices]) -> Array:
    members = np.zeros((count, len(subsets)))
    for number, subset in enumerate(subsets):
        members[subset, number] = 1
    return members


def _sums_within(items: NDArray[np.floating], members: Array) -> Array:
    """Sums of kernels of each item with the other items of each subset, ``[N, subsets]``.

    Kernels below the diagonal equal those above it.
    """
    sums = np.zeros_like(members)
    for rows in _parts(len(items)):
        x = items[rows].astype(np.float64)
        kernel = _kernel(x, x)
        np.fill_diagonal(kernel, 0)
        sums[rows] += kernel @ members[rows]
        for columns in _parts(len(items), rows.stop):
            kernel = _kernel(x, items[columns].astype(np.float64))
            sums[rows] += kernel @ members[columns]
            sums[columns] += kernel.T @ members[rows]
    return sums


def _sums_across(
    a: NDArray[np.floating], b: NDArray[np.floating], members_a: Array, members_b: Array
) -> tuple[Array, Array]:
    """Sums of kernels of each item of one set with each subset of the other."""
    sums_a, sums_b = np.zeros_like(members_a), np.zeros_like(members_b)
    for rows in _parts(len(a)):
        x = a[rows].astype(np.float64)
        for columns in _parts(len(b)):
            kernel = _kernel(x, b[columns].astype(np.float64))
            sums_a[rows] += kernel @ members_b[columns]
            sums_b[columns] += kernel.T @ members_a[rows]
    return sums_a, sums_b


def _parts(count: int, start: int = 0) -> Iterator[slice]:
    for begin in range(start, count, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, count))


def _kernel(x: Array, y: Array) -> Array:
    """``(x.y / F + 1)^3`` of all pairs, ``[N, M]``."""
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    kernel = base * base
    kernel *= base
    return kernel
