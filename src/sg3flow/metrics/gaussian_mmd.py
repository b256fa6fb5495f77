"""CMMD (Jayasumana et al. 2024): squared MMD of CLIP features under a Gaussian kernel, times 1000.

Kernels are computed block by block, so memory is bounded for sets of any size.
"""

import math
from collections.abc import Iterator

import torch

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import BLOCKS, Estimate

_BLOCK = 4096
CPU = torch.device("cpu")


def gaussian_mmd(
    real: torch.Tensor,
    gen: torch.Tensor,
    sigma: float,
    *,
    scale: float = 1.0,
    within_real: float | None = None,
    device: torch.device = CPU,
) -> Estimate:
    """Squared MMD with the kernel ``exp(-|x - y|^2 / (2 sigma^2))``, and its standard error.

    As published the means within a set include each item with itself: the value is that of the
    two empirical distributions, never negative, and of equal distributions about
    ``(1 - mean kernel) (1/N + 1/M)`` above 0.

    To first order it is a mean over the generated items (Hoeffding 1948): twice the difference of
    their mean kernel with their own set and with the other. That gives the error.

    Args:
        real, gen: features ``[N, F]`` and ``[M, F]``.
        scale: factor of the value and its error.
        within_real: ``mean_kernel(real, real)`` of an earlier call, if known.
        device: where kernels are computed.

    Raises:
        MetricError: an empty set, or different numbers of features.
    """
    if real.ndim != 2 or gen.ndim != 2 or real.shape[1] != gen.shape[1] or 0 in real.shape:
        shapes = f"{tuple(real.shape)} and {tuple(gen.shape)}"
        raise MetricError(f"expected two sets of features [N, F], found {shapes}")
    if within_real is None:
        within_real = mean_kernel(real, sigma, device)
    within = _mean_kernels(gen, gen, sigma, device)
    across = _mean_kernels(gen, real, sigma, device)
    value = within_real + float(within.mean()) - 2 * float(across.mean())
    count = len(gen)
    if count < 2 * BLOCKS:
        return Estimate(scale * value, None)
    effects = 2 * scale * (within - across)
    terms = (effects - effects.mean()) / math.sqrt(count * (count - 1))
    return Estimate(scale * value, float(terms.square().sum().sqrt()), terms.numpy())


def mean_kernel(items: torch.Tensor, sigma: float, device: torch.device = CPU) -> float:
    """Mean over all pairs of items of the kernel minus 1; for ``within_real``."""
    return float(_mean_kernels(items, items, sigma, device).mean())


def _mean_kernels(
    items: torch.Tensor, others: torch.Tensor, sigma: float, device: torch.device
) -> torch.Tensor:
    """Mean over ``others`` of the kernel minus 1, float64 ``[N]``.

    The constant cancels in the distance. Without it float32 keeps all digits of kernels near 1,
    where those of unit vectors are.
    """
    sums = torch.zeros(len(items), dtype=torch.float64)
    for rows, x in _blocks(items, device):
        lengths = x.square().sum(dim=1, keepdim=True)
        for _, y in _blocks(others, device):
            squares = lengths + y.square().sum(dim=1) - 2 * (x @ y.T)
            kernel = torch.expm1(squares.clamp(min=0) / (-2 * sigma**2))
            sums[rows] += kernel.sum(dim=1, dtype=torch.float64).cpu()
    return sums / len(others)


def _blocks(items: torch.Tensor, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    for start in range(0, len(items), _BLOCK):
        part = slice(start, min(start + _BLOCK, len(items)))
        yield part, items[part].to(device=device, dtype=torch.float32)
