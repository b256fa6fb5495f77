"""Slow references that follow the definitions of the ops exactly."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F


def naive_upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    """Zero insertion, padding, convolution, decimation, in plain differentiable PyTorch."""
    ux, uy = (up, up) if isinstance(up, int) else up
    dx, dy = (down, down) if isinstance(down, int) else down
    pads = (padding, padding) if isinstance(padding, int) else tuple(padding)
    x0, x1, y0, y1 = (pads[0], pads[0], pads[1], pads[1]) if len(pads) == 2 else pads
    f = torch.ones(1, 1, dtype=x.dtype) if f is None else f.to(x.dtype)
    f = (f.outer(f) if f.ndim == 1 else f) * gain
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n * c, 1, h * uy, w * ux)
    x = F.pad(x, (x0, x1, y0, y1))
    x = F.conv2d(x, (f if flip_filter else f.flip((0, 1)))[None, None])
    x = x[:, :, ::dy, ::dx]
    return x.reshape(n, c, *x.shape[2:])


def naive_filtered_lrelu(
    x,
    fu=None,
    fd=None,
    b=None,
    up=1,
    down=1,
    padding=0,
    gain=2**0.5,
    slope=0.2,
    clamp=None,
    flip_filter=False,
):
    """The four steps of filtered_lrelu, one after the other."""
    x = x if b is None else x + b[:, None, None]
    x = naive_upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=up**2)
    x = F.leaky_relu(x, slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return naive_upfirdn2d(x, fd, down=down, flip_filter=flip_filter)


@pytest.fixture(scope="session")
def reference_upfirdn2d() -> Callable[..., torch.Tensor]:
    return naive_upfirdn2d


@pytest.fixture(scope="session")
def reference_filtered_lrelu() -> Callable[..., torch.Tensor]:
    return naive_filtered_lrelu


@pytest.fixture(scope="session")
def near() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Compares a result of any dtype with one in float64, within the rounding of its dtype."""

    def compare(found: torch.Tensor, expected: torch.Tensor) -> None:
        assert expected.dtype == torch.float64
        largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
        atol = 100 * torch.finfo(found.dtype).eps * max(largest, 1.0)
        torch.testing.assert_close(found.double(), expected, atol=atol, rtol=0)

    return compare


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    """Seeded normal numbers of a shape, float32 by default."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return normal
