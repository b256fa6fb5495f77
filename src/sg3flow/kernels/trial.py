"""A short trial of compiled kernels: do they compute what plain PyTorch does on this device?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sg3flow.ops.fir import FirSpec, filter_taps

# Largest error of a forward and a backward pass, as a share of the largest value.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_GAIN, _SLOPE, _CLAMP = math.sqrt(2), 0.2, 0.9


@dataclass(frozen=True)
class _Case:
    """One geometry of StyleGAN3: factors, filters and padding."""

    up: int
    down: int
    radial: bool
    padding: tuple[int, int, int, int]


_CASES = (
    _Case(2, 2, False, (9, 8, 9, 8)),
    _Case(4, 2, False, (21, 20, 21, 20)),
    _Case(2, 2, True, (9, 8, 9, 8)),
)


def largest_error(device: str, dtype: torch.dtype) -> float:
    """Of filtered_lrelu and its gradient in the kernels, against the definition in float64."""
    # The first use of an op may be anywhere: in inference mode, too.
    with torch.inference_mode(False), torch.enable_grad():
        return max(error for case in _CASES for error in _errors(case, device, dtype))


def _errors(case: _Case, device: str, dtype: torch.dtype) -> Iterator[float]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 24, 20, generator=random).to(dtype)
    fu, fd = _taps(6 * case.up), _taps(12)
    if case.radial:
        fd = fd.outer(fd)
    wanted, wanted_dx = _defined(x.double(), fu, fd, case)
    inputs = (x.to(device).requires_grad_(), fu.to(device), fd.to(device))
    up, down = (case.up, case.up), (case.down, case.down)
    y, _ = torch.ops.sg3flow.filtered_lrelu(
        *inputs, None, up, down, case.padding, False, _GAIN, _SLOPE, _CLAMP, True
    )
    (dx,) = torch.autograd.grad(y.sum(), inputs[0])
    for found, expected in ((y.detach(), wanted), (dx, wanted_dx)):
        yield float((found.cpu().double() - expected).abs().max() / expected.abs().max())


def _taps(count: int) -> torch.Tensor:
    taps = torch.hann_window(count + 2, periodic=False)[1:-1]
    return taps / taps.sum()


def _defined(
    x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, case: _Case
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op and the gradient of its sum by plain PyTorch, on the CPU."""
    from sg3flow.ops.upfirdn2d import fir

    x = x.requires_grad_()
    first = FirSpec((case.up, case.up), (1, 1), case.padding, gain=float(case.up**2))
    second = FirSpec((1, 1), (case.down, case.down), gain=_GAIN)
    assert filter_taps(fu)[0] == 6 * case.up
    v = torch.nn.functional.leaky_relu(fir(x, fu, first), _SLOPE)
    y = fir(v.clamp(-_CLAMP / _GAIN, _CLAMP / _GAIN), fd, second)
    (dx,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), dx
