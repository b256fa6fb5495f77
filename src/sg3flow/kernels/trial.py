"""A short trial of compiled kernels: do they compute what plain PyTorch does on this device?

    python -m sg3flow.kernels.trial cuda /path/to/kernels.so

says what is wrong in its last line and exits with 1, or exits with 0.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sg3flow.errors import ConfigError
from sg3flow.ops.fir import FirSpec, filter_taps

# Largest relative error of a forward and a backward pass, in the root mean square. Plain PyTorch
# itself has 2e-7, 3e-3 and 6.4e-3 on the CPU. Not of single values: a sample within rounding of 0
# falls on either side, and its gradient, off by 2e-2 of the largest then, with it.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
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


def require_right(name: str) -> None:
    """Try the kernels on this very device: a compiler or a card may do what nobody has seen yet.

    Raises:
        ConfigError: they do not run, or compute something else than plain PyTorch.
    """
    dtypes = TOLERANCES if name == "cuda" else (torch.float32,)
    for dtype in dtypes:
        try:
            error = largest_error(name, dtype)
        except RuntimeError as problem:
            reason = (str(problem).strip().splitlines() or ["no message"])[0][:200]
            raise ConfigError(f"the {name} kernels do not run here: {reason}") from None
        if not error <= TOLERANCES[dtype]:
            raise ConfigError(
                f"the {name} kernels differ from plain PyTorch by {error:.1e} in {dtype}; please "
                "report this machine and compiler"
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
        fd = _radial(fd)
    wanted, wanted_dx = _defined(x.double(), fu, fd, case)
    inputs = (x.to(device).requires_grad_(), fu.to(device), fd.to(device))
    up, down = (case.up, case.up), (case.down, case.down)
    y, _ = torch.ops.sg3flow.filtered_lrelu(
        *inputs, None, up, down, case.padding, False, _GAIN, _SLOPE, _CLAMP, True
    )
    (dx,) = torch.autograd.grad(y.sum(), inputs[0])
    for found, expected in ((y.detach(), wanted), (dx, wanted_dx)):
        yield float((found.cpu().double() - expected).norm() / expected.norm())


def _taps(count: int) -> torch.Tensor:
    """Equal from both ends to the last bit, as the layers' filters are: kernels use it."""
    taps = torch.hann_window(count + 2, periodic=False)[1:-1]
    return (taps + taps.flip(0)) / (2 * taps.sum())


def _radial(taps: torch.Tensor) -> torch.Tensor:
    """No outer product, which kernels may take apart again."""
    cross = torch.eye(len(taps))
    return taps.outer(taps) + 1e-3 * (cross + cross.flip(0))


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


def _main(name: str, path: str) -> None:
    from sg3flow.kernels import library  # noqa: F401 - declares the ops

    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        require_right(name)
    except (OSError, ConfigError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    _main(*sys.argv[1:])
