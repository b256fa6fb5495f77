"""Feature likelihood divergence (Jiralerspong et al. 2023): do generated images explain new reals?

The generated features are the centers of a mixture of Gaussians. Its variances, one per center, are
fitted to the training images; its likelihood is that of held-out images. A copy of a training image
gets a variance near 0, which no other image fits: copying makes the divergence large.
Written from the paper. Departure: expectation maximization, where the authors use gradient steps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import (
    Estimate,
    block_bounds,
    jackknife_error,
    jackknife_terms,
    mean_estimate,
)
from sg3flow.metrics.neighborhoods import nearest

Array = NDArray[np.float64]
CPU = torch.device("cpu")
_SCALE = 100.0
_STEPS = 50
_ENOUGH = 1e-6  # gain of a step in log-likelihood per feature: 1e-4 of the divergence
_LEAST = 1e-3  # squared distance that is added at the start, and the least that is fitted
_BASE = 0.81  # of the squared distance to the mean image: the base likelihood of the fit
_CLOSEST = 0.01  # share of held-out images that would count as memorized
_ROWS = 1024
_KEPT_BYTES = 1 << 31  # larger matrices of distances are computed anew in each step


@dataclass(frozen=True)
class Likelihood:
    """The divergence and what tells whether the generator copies.

    Attributes:
        divergence: of held-out images, 0: as good as other training images.
        gap: divergence of training images less that of held-out ones; far below 0 for copies.
        memorized: share of generated images that are nearer to a training image than 99 % of the
            held-out images are: about 0.01 for honest samples, 1 for copies.
    """

    divergence: Estimate
    gap: Estimate
    memorized: Estimate


def feature_likelihood(
    train: torch.Tensor,
    test: torch.Tensor,
    gen: torch.Tensor,
    *,
    baseline: float | None = None,
    device: torch.device = CPU,
) -> Likelihood:
    """Divergence, generalization gap and memorized share with standard errors.

    All features are scaled to mean 0 and deviation 1 of the held-out ones. The errors of divergence
    and gap are a jackknife over blocks of generated images, with the variances as fitted.

    Args:
        train: features ``[T, F]`` that the variances are fitted to.
        test: held-out features ``[S, F]``.
        gen: generated features ``[N, F]``.
        baseline: ``baseline_likelihood`` of the same sets and N, if known.
        device: where distances are computed.

    Raises:
        MetricError: too few features, or different numbers of them.
    """
    _check(train, test, gen)
    if baseline is None:
        baseline = baseline_likelihood(train, test, len(gen), device)
    train, test, gen = _standardized(test, train, test, gen)
    mixture = Mixture.fitted(gen, train, device)
    of_test, of_train = (_likelihoods(mixture, items, device) for items in (test, train))
    divergence = -_SCALE * (of_test - baseline)
    gap = -_SCALE * (of_train - of_test)
    return Likelihood(
        _jackknifed(divergence), _jackknifed(gap), _memorized(train, test, gen, device)
    )


def baseline_likelihood(
    train: torch.Tensor, test: torch.Tensor, count: int, device: torch.device = CPU
) -> float:
    """Mean log-likelihood per feature of ``test`` if training images stand for generated ones.

    Args:
        count: number of generated images; at most half of ``train`` are centers, the rest is
            fitted to.

    Raises:
        MetricError: as ``feature_likelihood``.
    """
    _check(train, test)
    train, test = _standardized(test, train, test)
    order = np.random.RandomState(0).permutation(len(train))
    half = min(count, len(train) // 2)
    mixture = Mixture.fitted(train[order[:half]], train[order[half:]], device)
    return float(_likelihoods(mixture, test, device)[0])


def _check(*sets: torch.Tensor) -> None:
    shapes = [tuple(items.shape) for items in sets]
    if any(items.ndim != 2 or items.shape[1] != sets[0].shape[1] for items in sets):
        raise MetricError(f"expected sets of features [N, F], found {shapes}")
    if min(len(items) for items in sets) < 2:
        counts = ", ".join(str(len(items)) for items in sets)
        raise MetricError(
            f"fld needs at least 2 images of each set (training, held out, generated), not {counts}"
        )


def _standardized(test: torch.Tensor, *sets: torch.Tensor) -> list[torch.Tensor]:
    mean = test.mean(dim=0)
    deviation = test.std(dim=0)
    deviation[deviation == 0] = 1
    return [(items - mean) / deviation for items in sets]


class Mixture:
    """Gaussians of equal weight with one variance each.

    Attributes:
        centers: ``[N, F]``.
        variances: of each feature around a center, float64 ``[N]``.
    """

    def __init__(self, centers: torch.Tensor, variances: torch.Tensor) -> None:
        self.centers, self.variances = centers, variances

    @classmethod
    def fitted(cls, centers: torch.Tensor, items: torch.Tensor, device: torch.device) -> "Mixture":
        """The variances that maximize the likelihood of items, by expectation maximization.

        It starts with the distance to the nearest item. A Gaussian around the mean of the items,
        with a variance of its own, gives each item a base likelihood, so that no item must be
        explained by far centers. It is not part of the mixture.

        Args:
            centers: ``[N, F]``.
            items: features ``[T, F]``.
        """
        width = centers.shape[1]
        squares = _Squares(items, centers, device)
        base = _BASE * (items - items.mean(dim=0)).double().square().sum(dim=1)  # [T]
        variances = (squares.smallest() + _LEAST) / width
        base_variance = max(float(base.mean()) / width, _LEAST / width)
        before = -math.inf
        for _ in range(_STEPS):
            step = _Step(variances, base_variance, width)
            for rows, block in squares.blocks():
                step.add(block, base[rows])
            if step.likelihood - before < _ENOUGH * len(items) * width:
                break
            before = step.likelihood
            variances, base_variance = step.maximized()
        return cls(centers, variances)

    def log_densities(self, squares: torch.Tensor) -> torch.Tensor:
        """Weighted log-density ``[B, N]`` of items at squared distances ``[B, N]``."""
        return log_gaussians(squares, self.variances, self.centers.shape[1]) - math.log(
            len(self.variances)
        )


def log_gaussians(squares: torch.Tensor, variances: torch.Tensor, width: int) -> torch.Tensor:
    """``log N(x; mu, variance I)`` from ``|x - mu|^2``, float64."""
    spread = width * torch.log(2 * math.pi * variances)
    return -(squares.double() / variances + spread) / 2


class _Step:
    """One step of expectation maximization, which sees the items in blocks."""

    def __init__(self, variances: torch.Tensor, base_variance: float, width: int) -> None:
        self._variances, self._width = variances, width
        self._base_variance = torch.tensor(base_variance, dtype=torch.float64)
        self._shares = torch.zeros_like(variances)
        self._squares = torch.zeros_like(variances)
        self._base = torch.zeros(2, dtype=torch.float64)  # the same sums of the base
        self.likelihood = 0.0  # of all items, under the variances before the step

    def add(self, squares: torch.Tensor, base: torch.Tensor) -> None:
        """Add items at squared distances ``[B, N]`` from the centers, ``[B]`` from the mean."""
        densities = log_gaussians(squares, self._variances, self._width)
        densities -= math.log(len(self._variances))
        of_base = log_gaussians(base, self._base_variance, self._width)
        whole = torch.logaddexp(densities.logsumexp(dim=1), of_base)  # [B]
        shares = (densities - whole[:, None]).exp_()
        self.likelihood += float(whole.sum())
        self._shares += shares.sum(dim=0)
        self._squares += shares.mul_(squares).sum(dim=0)
        shares_of_base = (of_base - whole).exp()
        self._base += torch.stack([shares_of_base.sum(), (shares_of_base * base).sum()])

    def maximized(self) -> tuple[torch.Tensor, float]:
        """The variances after the step; a center without any share keeps its own."""
        found = self._squares / (self._shares * self._width)
        least = _LEAST / self._width
        variances = torch.where(self._shares > 0, found, self._variances).clamp(min=least)
        shares, squares = self._base.tolist()
        base = squares / (shares * self._width) if shares > 0 else float(self._base_variance)
        return variances, max(base, least)


class _Squares:
    """Squared distances of items from centers, kept if they fit into 2 GiB."""

    def __init__(self, items: torch.Tensor, centers: torch.Tensor, device: torch.device) -> None:
        self._items, self._device = items, device
        self._centers = centers.to(device)
        fits = 4 * len(items) * len(centers) <= _KEPT_BYTES
        self._kept = [block for _, block in self._computed()] if fits else []

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Numbers of the items, and their distances ``[B, N]``."""
        if not self._kept:
            yield from self._computed()
        else:
            yield from zip(_parts(len(self._items)), self._kept, strict=True)

    def smallest(self) -> torch.Tensor:
        """From each center to its nearest item, float64 ``[N]``."""
        found = torch.full((len(self._centers),), math.inf)
        for _, block in self.blocks():
            found = torch.minimum(found, block.amin(dim=0))
        return found.double()

    def _computed(self) -> Iterator[tuple[slice, torch.Tensor]]:
        lengths = self._centers.square().sum(dim=1)
        for rows in _parts(len(self._items)):
            x = self._items[rows].to(self._device)
            squares = x.square().sum(dim=1, keepdim=True) + lengths - 2 * (x @ self._centers.T)
            yield rows, squares.clamp_(min=0).cpu()


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, min(start + _ROWS, count))


def _likelihoods(mixture: Mixture, items: torch.Tensor, device: torch.device) -> Array:
    """Mean log-likelihood of items per feature: under all centers, then without each block."""
    bounds = block_bounds(len(mixture.centers))
    sums = np.zeros(1 + len(bounds))
    for _, squares in _Squares(items, mixture.centers, device).blocks():
        densities = mixture.log_densities(squares)
        parts = torch.stack([densities[:, a:b].logsumexp(dim=1) for a, b in bounds])  # [blocks, B]
        sums[0] += float(parts.logsumexp(dim=0).sum())
        for number, (a, b) in enumerate(bounds):
            kept = [other for other in range(len(bounds)) if other != number]
            if kept:
                weight = math.log(len(mixture.centers) / (len(mixture.centers) - (b - a)))
                sums[1 + number] += float((parts[kept].logsumexp(dim=0) + weight).sum())
    found: Array = sums / (len(items) * items.shape[1])
    return found


def _jackknifed(values: Array) -> Estimate:
    """An estimate from the value of all images, and those without each block."""
    left_out = [] if len(values) == 2 else values[1:].tolist()
    return Estimate(float(values[0]), jackknife_error(left_out), jackknife_terms(left_out))


def _memorized(
    train: torch.Tensor, test: torch.Tensor, gen: torch.Tensor, device: torch.device
) -> Estimate:
    """Share of generated items that are closer to ``train`` than all but a few of ``test``."""
    honest, found = (nearest(items, train, device)[0].numpy() for items in (test, gen))
    return mean_estimate(found < np.quantile(honest, _CLOSEST))
