"""The kernels' own index arithmetic and tiles, run on the host, against plain PyTorch."""

import math

import pytest
import torch

from sg3flow.ops import filtered_lrelu, upfirdn2d
from sg3flow.ops.fir import FirSpec, filter_taps

UP2, UP4, RADIAL = (12,), (24,), (12, 12)
# (up, taps of fu, down, taps of fd, padding): the layers of T and R, from their schedules
KINDS = {
    "t": (2, UP2, 2, UP2, (9, 8, 9, 8)),
    "t-up4": (4, UP4, 2, UP2, (-6, -9, -6, -9)),
    "t-last": (2, UP2, 2, UP2, (-11, -12, -11, -12)),
    "r": (2, UP2, 2, RADIAL, (11, 10, 11, 10)),
    "r-up4": (4, UP4, 2, RADIAL, (-2, -5, -2, -5)),
    "odd": (2, UP2, 2, UP2, (10, 3, -4, 7)),
    "sep-up4": (4, UP4, 2, UP2, (7, 2, -5, 9)),
    "odd-up4": (4, UP4, 2, RADIAL, (5, 2, -3, 4)),
}
BANDS = [kind for kind, values in KINDS.items() if values[3] != RADIAL]
OTHERS = {
    "down4": (1, None, 4, UP4, (3, 30, 28, 2)),
    "up3": (3, (6,), 2, (5, 4), (2, 4, 3, 3)),
    "identity": (1, None, 1, None, (0, 0, 0, 0)),
    "padded": (1, (3,), 1, None, (2, -1, 3, 0)),
    "lone taps": (2, (1,), 3, (3, 3), (1, 2, 0, 3)),
    "cropped": (2, UP2, 2, (7,), (-13, -12, -14, -11)),
}
SIZES = [(25, 31), (40, 37), (75, 42)]


def draw(*shape, seed=0, dtype=torch.float32):
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(dtype)


def taps_of(shape, seed):
    return None if shape is None else draw(*shape, seed=seed) / math.sqrt(math.prod(shape))


def layer(kind, dtype=torch.float32, size=(19, 23)):
    up, up_shape, down, down_shape, padding = {**KINDS, **OTHERS}[kind]
    x, b = draw(2, 3, *size, dtype=dtype), draw(3, seed=1, dtype=dtype)
    fu, fd = taps_of(up_shape, 2), taps_of(down_shape, 3)
    options = {"up": (up, up), "down": (down, down), "padding": padding}
    return x, fu, fd, b, options


def plain(x, fu, fd, b, options, flip, gain, slope, clamp):
    """The result of the plain PyTorch path, and its gradient for a fixed cotangent."""
    x = x.clone().requires_grad_()
    clamp = clamp if clamp >= 0 else None
    y = filtered_lrelu(x, fu, fd, b, gain=gain, slope=slope, clamp=clamp, flip_filter=flip, **options)
    g = draw(*y.shape, seed=4, dtype=x.dtype)
    (dx,) = torch.autograd.grad(y, x, g)
    return y.detach(), g, dx


def pulled(host, x, flags, y, g, fu, fd, options, flip, gain, slope, tiles):
    """The gradient by the stored flags: rates, filters and flip exchanged (spec of the op)."""
    (up, _), (down, _), pads = options["up"], options["down"], options["padding"]
    (uh, uw), (dh, dw) = filter_taps(fu), filter_taps(fd)
    padding = (
        uw + dw - 2 - pads[0],
        x.shape[3] * up - y.shape[3] * down + pads[0] - (up - 1),
        uh + dh - 2 - pads[2],
        x.shape[2] * up - y.shape[2] * down + pads[2] - (up - 1),
    )
    width = x.shape[3] * up + pads[0] + pads[1] - uw + 1
    return host.flagged(
        g, flags, fd, fu, (pads[0] - (uw - 1), pads[2] - (uh - 1)), width,
        up=options["down"], down=options["up"], padding=padding, flip=not flip,
        gain=gain * up**2 / down**2, slope=slope, tiles=tiles,
    )  # fmt: skip


def assert_near(found, expected, limit):
    assert found.shape == expected.shape
    assert not torch.isnan(found).any(), "samples were left unwritten"
    assert float((found - expected).abs().max()) <= limit * float(expected.abs().max())


def check(host, kind, size, flip, clamp, tiles, dtype=torch.float32, limit=2e-5):
    x, fu, fd, b, options = layer(kind, dtype, size)
    shape = {"gain": 1.3, "slope": 0.2}
    y, g, dx = plain(x, fu, fd, b, options, flip, clamp=clamp, **shape)
    found, flags = host.filtered_lrelu(
        x, fu, fd, b, flip=flip, clamp=clamp, tiles=tiles, **options, **shape
    )
    assert_near(found, y, limit)
    back = pulled(host, x, flags, y, g, fu, fd, options, flip, tiles=tiles, **shape)
    assert_near(back, dx, limit)
    again = host.flagged(
        x, flags, fu, fd, (0, 0), x.shape[3] * options["up"][0] + sum(options["padding"][:2])
        - filter_taps(fu)[1] + 1, flip=flip, tiles=tiles, **options, **shape,
    )  # fmt: skip
    assert_near(again, pushed(x, fu, fd, b, options, flip, clamp, **shape), limit)


def pushed(x, fu, fd, b, options, flip, clamp, gain, slope):
    """A tangent pushed forward through the op: what the second order runs."""
    x = x.clone().requires_grad_()
    clamp = clamp if clamp >= 0 else None
    y = filtered_lrelu(x, fu, fd, b, gain=gain, slope=slope, clamp=clamp, flip_filter=flip, **options)
    g = torch.zeros_like(y, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
    (dy,) = torch.autograd.grad(dx, g, x.detach())
    return dy


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_every_layer_kind(host_kernels, kind, flip, size):
    clamp = 0.9 if flip else -1.0
    check(host_kernels, kind, size, flip, clamp, "plain")


@pytest.mark.parametrize("size", [*SIZES, (130, 29)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", BANDS)
def test_tiles_on_the_tensor_cores(host_kernels, kind, flip, size):
    clamp = 0.9 if flip else -1.0
    check(host_kernels, kind, size, flip, clamp, "bands")


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_the_generic_kernel(host_kernels, kind):
    check(host_kernels, kind, (35, 37), True, 0.9, "generic")
    check(host_kernels, kind, (35, 37), False, -1.0, "generic", torch.float64, limit=1e-13)
