import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sg3flow.ops import filtered_lrelu

pytestmark = pytest.mark.usefixtures("each_backend")

CASES = {
    "up2 down2": ({"up": 2, "down": 2, "padding": (9, 8, 9, 8)}, (12,), (12,)),
    "up4 down2": ({"up": 4, "down": 2, "padding": (16, 15, 14, 17)}, (24,), (12,)),
    "radial": ({"up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 0.8}, (12,), (6, 6)),
    "cropping": ({"up": 2, "down": 2, "padding": (-3, -2, -2, -3)}, (8,), (8,)),
    "clamped": ({"up": 2, "padding": 3, "clamp": 0.5, "flip_filter": True}, (4, 3), None),
    "bias only": ({"gain": 1, "slope": 1, "clamp": 0.9}, None, None),
    "slope 0": ({"down": 2, "slope": 0, "clamp": 1.0}, None, (3, 3)),
    "steep": ({"slope": 1.5, "clamp": 1.0, "gain": 1}, None, None),
    "padded": ({"padding": (1, 2, 0, 3), "gain": 0.7}, None, None),
    "uneven": (
        {"up": 2, "down": 2, "padding": (9, 6, 4, 11), "slope": 0, "gain": 0.7, "clamp": 0.9},
        (12,),
        (12,),
    ),
    "flipped": (
        {"up": 2, "down": 2, "padding": (7, 9, 8, 5), "slope": 1.5, "flip_filter": True},
        (5, 8),
        (6, 7),
    ),
}


def arguments(draw, case, dtype=torch.float32):
    options, up_taps, down_taps = CASES[case]
    fu = None if up_taps is None else draw(*up_taps) / 3
    fd = None if down_taps is None else draw(*down_taps) / 3
    x, b = draw(2, 3, 15, 13, dtype=dtype), draw(3, dtype=dtype)
    return x.requires_grad_(), fu, fd, b.requires_grad_(), options


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_matches_the_definition(draw, reference_filtered_lrelu, near, case, dtype):
    x, fu, fd, b, options = arguments(draw, case, dtype)
    results = []
    for op, kind in ((reference_filtered_lrelu, torch.float64), (filtered_lrelu, dtype)):
        inputs = x.detach().to(kind).requires_grad_(), b.detach().to(kind).requires_grad_()
        y = op(inputs[0], fu, fd, inputs[1], **options)
        cotangent = torch.arange(y.numel(), dtype=torch.float64).sin().reshape(y.shape)
        results.append([y, *torch.autograd.grad(y, inputs, cotangent.to(kind))])
    for expected, found in zip(*results, strict=True):
        assert found.dtype == dtype
        near(found, expected)


def symmetric(taps: int, radial: bool) -> torch.Tensor:
    """Symmetric to the last bit, as the filters of the layers are: kernels depend on it."""
    window = torch.hann_window(taps + 2, periodic=False)[1:-1] / taps
    window, cross = window + window.flip(0), torch.eye(taps)
    return window.outer(window) + 0.01 * (cross + cross.flip(0)) if radial else window


# as the layers of T and R have them, and as their gradients do
@pytest.mark.parametrize(
    ("up", "down", "radial_up", "radial_down"),
    [
        (2, 2, False, False),
        (4, 2, False, False),
        (2, 4, False, False),
        (2, 2, False, True),
        (4, 2, False, True),
        (2, 2, True, False),
        (2, 4, True, False),
        (2, 4, False, True),
    ],
)
@pytest.mark.parametrize("width", [9, pytest.param(1190, marks=pytest.mark.medium)])
def test_layers_of_any_width(
    draw, reference_filtered_lrelu, near, up, down, radial_up, radial_down, width
):
    fu, fd = symmetric(6 * up, radial_up), symmetric(6 * down, radial_down)
    assert all(torch.equal(f, f.flip(-1)) for f in (fu, fd))
    x, b = draw(1, 2, 9, width), draw(2)
    options = {"up": up, "down": down, "padding": (9, 8, 11, 10), "clamp": 0.9}
    results = []
    for op, kind in ((reference_filtered_lrelu, torch.float64), (filtered_lrelu, torch.float32)):
        inputs = x.to(kind).requires_grad_(), b.to(kind).requires_grad_()
        y = op(inputs[0], fu, fd, inputs[1], **options)
        cotangent = torch.arange(y.numel(), dtype=torch.float64).sin().reshape(y.shape)
        results.append([y, *torch.autograd.grad(y, inputs, cotangent.to(kind))])
    for expected, found in zip(*results, strict=True):
        near(found, expected)


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_any_order(draw, case):
    x, fu, fd, b, options = arguments(draw, case, torch.float64)

    def op(x, b):
        return filtered_lrelu(x, fu, fd, b, **options)

    assert gradcheck(op, (x, b), fast_mode=True)
    assert gradgradcheck(op, (x, b), fast_mode=True)


def test_second_order_gradient_reaches_the_cotangent(draw, reference_filtered_lrelu):
    x, fu, fd, b, options = arguments(draw, "radial", torch.float64)
    results = []
    for op in (reference_filtered_lrelu, filtered_lrelu):
        y = op(x, fu, fd, b, **options)
        v = torch.ones_like(y, requires_grad=True)
        (dx,) = torch.autograd.grad(y, x, v, create_graph=True)
        (dv,) = torch.autograd.grad(dx.square().sum(), v, create_graph=True)
        (again,) = torch.autograd.grad(dv.square().sum(), v)
        results.append((dv, again))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_at_exactly_zero_the_slope_is_the_leaky_one():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    filtered_lrelu(x, gain=1).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.2))


def test_planes_in_groups_give_the_same(draw):
    x, f = draw(5, 20, 64, 64), draw(12) / 3
    options = {"up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 2.0}
    together = filtered_lrelu(x, f, f, draw(20) * 0, **options)
    alone = torch.cat([filtered_lrelu(one[None], f, f, **options) for one in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_odd_channels_and_strides(draw):
    x, f, b = draw(2, 10, 17, 11), draw(12) / 3, draw(5)
    options = {"up": 2, "down": 2, "padding": (9, 8, 9, 8)}
    view = x[:, ::2].transpose(2, 3)
    found = filtered_lrelu(view, f, f, b, **options)
    torch.testing.assert_close(found, filtered_lrelu(view.contiguous(), f, f, b, **options))


def test_the_input_is_left_alone(draw):
    x = draw(1, 2, 6, 6)
    before = x.clone()
    for options in ({}, {"clamp": 0.1}, {"slope": 1, "clamp": 0.1}):
        filtered_lrelu(x, **options)
    assert torch.equal(x, before)


def test_empty_batch():
    x, b = torch.empty(0, 3, 8, 8, requires_grad=True), torch.zeros(3, requires_grad=True)
    f = torch.ones(12)
    y = filtered_lrelu(x, f, f, b, up=2, down=2, padding=(9, 8, 9, 8))
    assert y.shape == (0, 3, 6, 6)
    y.sum().backward()
    assert x.grad.shape == x.shape and b.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(draw, dtype):
    x, b, f = draw(2, 4, 12, 12), draw(4), torch.full((12,), 1 / 12)
    options = {"up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 256.0}
    y = filtered_lrelu(x.to(dtype), f, f, b.to(dtype), **options)
    expected = filtered_lrelu(x, f, f, b, **options)
    assert y.dtype == dtype
    assert float((y - expected).abs().max() / expected.abs().max()) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"b": torch.ones(2)}, r"b must be \[1\]"),
        ({"gain": 0}, "gain"),
        ({"slope": -1}, "slope"),
        ({"clamp": -1}, "clamp"),
        ({"fd": torch.ones(12)}, "smaller than the filter"),
        ({"fu": torch.ones(2, 2, 2)}, "fu must be"),
    ],
)
def test_wrong_arguments_are_worded(options, part):
    with pytest.raises(ValueError, match=part):
        filtered_lrelu(torch.ones(1, 1, 8, 8), **options)
