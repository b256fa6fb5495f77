"""The index arithmetic and tiles of the kernels, run on the host, against plain PyTorch."""

import pytest
import torch

from sg3flow.ops import bias_act, filtered_lrelu, upfirdn2d
from sg3flow.ops.fir import filter_taps

pytestmark = pytest.mark.medium


def plain(x, fu, fd, b, numbers, flip, clamp, **options):
    """The result of the plain PyTorch path, and its gradient for a fixed cotangent."""
    x = x.clone().requires_grad_()
    clamp = clamp if clamp >= 0 else None
    y = filtered_lrelu(x, fu, fd, b, clamp=clamp, flip_filter=flip, **options)
    g = numbers(*y.shape, seed=4, dtype=x.dtype)
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


def sized(kind, size):
    """A layer that upsamples by 4 gives as many outputs for half the inputs; parities stay."""
    if "up4" not in kind and kind != "odd-radial":
        return size
    return tuple(max(n // 2 + (n // 2 + n) % 2, 14 + n % 2) for n in size)


def assert_near(found, expected, limit, share=0.0):
    """A `share` of the elements may differ by more.

    Rounding can move a sample near 0, or near the clamp, to the other side, with its gradient.
    """
    assert found.shape == expected.shape
    assert not torch.isnan(found).any(), "samples were left unwritten"
    beyond = (found - expected).abs() > limit * expected.abs().max()
    assert float(beyond.double().mean()) <= share


def pushed(x, fu, fd, b, flip, clamp, **options):
    """A tangent pushed forward through the op: what the second order runs."""
    x = x.clone().requires_grad_()
    clamp = clamp if clamp >= 0 else None
    y = filtered_lrelu(x, fu, fd, b, clamp=clamp, flip_filter=flip, **options)
    g = torch.zeros_like(y, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, g, create_graph=True)
    (dy,) = torch.autograd.grad(dx, g, x.detach())
    return dy


@pytest.fixture
def check(host_kernels, layer, numbers):
    """Compares forward, backward and second order with the plain path."""

    def compare(kind, size, flip, clamp, tiles, dtype=torch.float32, limit=2e-5):
        x, fu, fd, b, options = layer(kind, sized(kind, size), dtype)
        shape = {"gain": 1.3, "slope": 0.2}
        run = {"flip": flip, "tiles": tiles, **options, **shape}
        y, g, dx = plain(x, fu, fd, b, numbers, flip, clamp, **options, **shape)
        found, flags = host_kernels.filtered_lrelu(x, fu, fd, b, clamp=clamp, **run)
        assert_near(found, y, limit)
        bare, _ = host_kernels.filtered_lrelu(x, fu, fd, b, False, clamp=clamp, **run)
        assert torch.equal(bare, found)
        back = pulled(host_kernels, x, flags, y, g, fu, fd, options, flip, tiles=tiles, **shape)
        assert_near(back, dx, limit, share=2e-3)
        width = x.shape[3] * options["up"][0] + sum(options["padding"][:2]) - filter_taps(fu)[1] + 1
        again = host_kernels.flagged(x, flags, fu, fd, (0, 0), width, **run)
        tangent = pushed(x, fu, fd, b, flip, clamp, **options, **shape)
        assert_near(again, tangent, limit, share=2e-3)

    return compare


@pytest.mark.parametrize(("size", "flip"), [((25, 31), True), ((75, 42), False)])
def test_plain_tiles(check, layer_kind, flip, size):
    check(layer_kind, size, flip, 0.9 if flip else -1.0, "plain")


@pytest.mark.parametrize(
    ("size", "flip"), [((25, 31), True), ((130, 61), False), ((24, 162), True), ((70, 36), False)]
)
def test_tiles_on_the_tensor_cores(check, layer_kind, flip, size):
    check(layer_kind, size, flip, 0.9 if flip else -1.0, "bands")


def test_half_precision_is_as_near_as_plain_pytorch(host_kernels, layer, numbers, layer_kind):
    x, fu, fd, b, options = layer(layer_kind, (40, 37))
    options |= {"gain": 1.4, "slope": 0.2}
    y, _, dx = plain(x, fu, fd, b, numbers, False, 1.1, **options)
    x, b = x.half(), b.half()
    plain_y, plain_g, plain_dx = plain(x, fu, fd, b, numbers, False, 1.1, **options)
    run = {"flip": False, "clamp": 1.1, "tiles": "bands", **options}
    found, flags = host_kernels.filtered_lrelu(x, fu, fd, b, **run)
    shape = {"flip": False, "gain": 1.4, "slope": 0.2, "tiles": "bands"}
    back = pulled(host_kernels, x, flags, found, plain_g, fu, fd, options, **shape)
    assert (found - y).norm() <= 2 * (plain_y - y).norm()
    assert (back - dx).norm() <= 2 * (plain_dx - dx).norm()


def test_the_generic_kernel(check, any_kind):
    check(any_kind, (35, 37), True, 0.9, "generic")
    check(any_kind, (35, 37), False, -1.0, "generic", torch.float64, limit=1e-13)


def test_flags_hold_what_the_contract_says(host_kernels, layer):
    """Bits of the upsampled samples, taken from an op whose upsampled signal is its input."""
    x, _, _, _, options = layer("identity", (5, 7))
    x[0, 0, 0, :3] = torch.tensor([0.0, 5.0, -30.0])
    _, flags = host_kernels.filtered_lrelu(
        x, None, None, None, flip=False, gain=1.0, slope=0.2, clamp=4.0, tiles="generic", **options
    )
    bits = (flags.repeat_interleave(4, 3) >> (2 * torch.arange(8) % 8)) & 3
    clipped = (torch.where(x > 0, x, 0.2 * x).abs() >= 4).int()
    assert torch.equal(bits[..., :7].int(), (x <= 0).int() + 2 * clipped)
    assert bits[0, 0, 0, :3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("tiles", ["plain", "bands"])
def test_tiles_and_samples_write_the_same_flags(host_kernels, layer, layer_kind, tiles):
    x, fu, fd, b, options = layer(layer_kind, (75, 66))
    run = {"flip": False, "gain": 1.3, "slope": 0.2, "clamp": 0.9, **options}
    _, expected = host_kernels.filtered_lrelu(x, fu, fd, b, tiles="generic", **run)
    _, found = host_kernels.filtered_lrelu(x, fu, fd, b, tiles=tiles, **run)
    different = (found != expected).sum()
    assert different <= 2  # samples within rounding of 0 or of the clamp


def test_planes_that_reach_the_clamp_and_others(host_kernels, layer, numbers, layer_kind):
    """The tiles look at the clamp only in planes whose inputs are large."""
    x, fu, fd, b, options = layer(layer_kind, (29, 38))
    x[0, 1] *= 20
    x[1, 2, 11, 17] = -300
    run = {"gain": 1.3, "slope": 0.2, **options}
    y, g, dx = plain(x, fu, fd, b, numbers, False, 30.0, **run)
    run |= {"flip": False, "tiles": "bands"}
    found, flags = host_kernels.filtered_lrelu(x, fu, fd, b, clamp=30.0, **run)
    assert_near(found, y, 2e-5)
    shape = {"flip": False, "gain": 1.3, "slope": 0.2, "tiles": "bands"}
    back = pulled(host_kernels, x, flags, y, g, fu, fd, options, **shape)
    assert_near(back, dx, 2e-5, share=2e-3)
    clipped = ((flags & 0b10101010) != 0).flatten(2).any(2)
    assert clipped.tolist() == [[False, True, False], [False, False, True]]


@pytest.mark.parametrize("width", [37, 38, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tensors_may_begin_anywhere(host_kernels, layer, layer_kind, dtype, width):
    """Only the order of sums depends on the alignment."""
    x, fu, fd, b, options = layer(layer_kind, (sized(layer_kind, (25,))[0], width), dtype)
    run = {"flip": False, "gain": 1.3, "slope": 0.2, "tiles": "bands"}
    y, flags = host_kernels.filtered_lrelu(x, fu, fd, b, clamp=4.0, **options, **run)
    dx = pulled(host_kernels, x, flags, y, y, fu, fd, options, **run)
    limit = 4 * torch.finfo(dtype).eps
    for offset in (1, 2, 3):
        moved, moved_y, moved_flags = (moved_by(offset, t) for t in (x, y, flags))
        again, again_flags = host_kernels.filtered_lrelu(
            moved, fu, fd, b, clamp=4.0, **options, **run
        )
        assert_near(again, y, limit)
        assert (again_flags != flags).float().mean() <= 2e-3
        back = pulled(host_kernels, x, moved_flags, y, moved_y, fu, fd, options, **run)
        assert_near(back, dx, limit)


def moved_by(offset, tensor):
    """A copy of the tensor that starts at an offset within its memory."""
    memory = tensor.new_zeros(tensor.numel() + offset)
    memory[offset:] = tensor.flatten()
    return memory[offset:].view(tensor.shape)


@pytest.mark.parametrize("offset", [(-7, 5), (6, -9), (13, 40)])
def test_flags_outside_the_stored_range(host_kernels, layer, layer_kind, offset):
    """Nothing passes there; gradients are 0 there, so they do not reach this case."""
    x, fu, fd, b, options = layer(layer_kind, (27, 50))
    run = {"flip": False, "gain": 1.3, "slope": 0.2, **options}
    width = x.shape[3] * options["up"][0] + sum(options["padding"][:2]) - filter_taps(fu)[1] + 1
    _, flags = host_kernels.filtered_lrelu(x, fu, fd, b, tiles="generic", clamp=2.0, **run)
    found, expected = (
        host_kernels.flagged(x, flags, fu, fd, offset, width, tiles=tiles, **run)
        for tiles in ("bands", "generic")
    )
    assert_near(found, expected, 2e-5)


def test_a_nan_stays_in_its_plane(host_kernels, layer, layer_kind):
    """Products with the zeros of a band spread it to some more neighbors, but no further."""
    x, fu, fd, b, options = layer(layer_kind, (40, 66))
    run = {"flip": False, "gain": 1.3, "slope": 0.2, "clamp": 4.0, **options}
    y, _ = host_kernels.filtered_lrelu(x, fu, fd, b, tiles="bands", **run)
    x[1, 0, 20, 33] = torch.nan
    expected, _ = host_kernels.filtered_lrelu(x, fu, fd, b, tiles="generic", **run)
    found, _ = host_kernels.filtered_lrelu(x, fu, fd, b, tiles="bands", **run)
    assert found.isnan()[expected.isnan()].all()
    reach = 8 * options["up"][0]
    around = torch.nn.functional.max_pool2d(expected.isnan().float(), 2 * reach + 1, 1, reach)
    assert torch.equal(found[around == 0], y[around == 0])


@pytest.mark.parametrize("slope", [1.5, -0.2])
def test_other_slopes_are_left_to_the_plain_tiles(host_kernels, layer, slope):
    x, fu, fd, b, options = layer("t", (12, 12))
    run = {"flip": False, "gain": 1.0, "clamp": -1.0, "tiles": "bands", **options}
    with pytest.raises(AssertionError, match="no tile kind fits"):
        host_kernels.filtered_lrelu(x, fu, fd, b, slope=slope, **run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "up", "down", "padding"),
    [
        ((4, 4), (1, 1), (1, 1), (2, 1, 2, 1)),
        ((4, 4), (2, 2), (1, 1), (2, 1, 2, 1)),
        ((4, 4), (1, 1), (2, 2), (1, 1, -2, 1)),
        ((4, 4), (2, 2), (1, 1), (-3, 4, 1, -5)),
        ((12,), (2, 2), (1, 1), (6, 5, 6, 5)),
        ((3, 5), (2, 3), (3, 1), (0, 4, -1, 7)),
    ],
)
def test_upfirdn2d(host_kernels, numbers, dtype, shape, up, down, padding):
    x, f = numbers(2, 3, 17, 14, dtype=dtype), numbers(*shape, seed=5) / 4
    for flip in (False, True):
        expected = upfirdn2d(x, f, up, down, padding, flip_filter=flip, gain=1.7)
        found = host_kernels.upfirdn2d(x, f, up, down, padding, flip, 1.7)
        assert_near(found, expected, 1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
def test_bias_act(host_kernels, numbers, act, clamp, dtype):
    x = numbers(2, 3, 5, 4, dtype=dtype).requires_grad_()
    b, grad = numbers(3, seed=1, dtype=dtype), numbers(2, 3, 5, 4, seed=2, dtype=dtype)
    y = bias_act(x, b, act, gain=1.5, clamp=clamp)
    (dx,) = torch.autograd.grad(y, x, grad)
    constants = (1.0 if act == "linear" else 0.2, 1.5, -1.0 if clamp is None else clamp)
    found = host_kernels.bias_act(x.detach(), b, *constants)
    torch.testing.assert_close(found, y.detach())
    torch.testing.assert_close(host_kernels.bias_act(found, None, *constants, grad=grad), dx)


def test_nan_stays_nan(host_kernels):
    x = torch.full((1, 1, 2, 2), torch.nan)
    assert host_kernels.bias_act(x, None, 0.2, 1.0, 0.5).isnan().all()
    y, flags = host_kernels.filtered_lrelu(
        x, None, None, None, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip=False, gain=1.0,
        slope=0.2, clamp=0.5, tiles="generic",
    )  # fmt: skip
    assert y.isnan().all()
    assert flags.flatten().tolist() == [0b0101, 0b0101]
