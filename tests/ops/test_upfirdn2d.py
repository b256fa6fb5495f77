import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from sg3flow.ops import (
    downsample2d,
    downsample_branch,
    filter2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)

pytestmark = pytest.mark.usefixtures("each_backend")

CASES = {
    "up2": {"up": 2, "padding": (5, 4, 5, 4), "gain": 4},
    "up4 cropped": {"up": 4, "padding": (-3, -6, -5, -1)},
    "up4 padded more on one side": {"up": 4, "padding": (17, 1, 3, 20)},
    "down2": {"down": 2, "padding": 3},
    "down4 uneven": {"down": 4, "padding": (3, 8, 9, 0)},
    "both": {"up": (3, 2), "down": (2, 3), "padding": (4, 5), "gain": 2.5},
    "plain": {"padding": (1, 2, 3, 4), "flip_filter": True},
    "only x": {"up": (2, 1), "down": (1, 2), "padding": (4, 4, 5, 5)},
}
TAPS = {"separable": (8,), "tall": (4, 3), "wide": (2, 5), "one": (1, 1), "none": None}


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("case", CASES)
def test_matches_the_definition(draw, reference_upfirdn2d, case, taps):
    f = None if TAPS[taps] is None else draw(*TAPS[taps])
    x = draw(2, 3, 13, 10)
    expected = reference_upfirdn2d(x, f, **CASES[case])
    found = upfirdn2d(x, f, **CASES[case])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=2e-6 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, (1, 2)), (1, 4), ((4, 1), (2, 3))])
@pytest.mark.parametrize("taps", [(97,), (3, 150), (12,), (24,), (12, 12), (24, 24)])
def test_filters_longer_than_the_image(draw, reference_upfirdn2d, taps, up, down, symmetric):
    f = draw(*taps)
    f = f + f.flip(-1) if symmetric else f
    x = draw(2, 3, 13, 10)
    sizes = {"up": up, "down": down, "padding": (80, 71, 60, 81)}
    expected = reference_upfirdn2d(x, f, **sizes)
    found = upfirdn2d(x, f, **sizes)
    torch.testing.assert_close(found, expected, atol=3e-6 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("taps", ["separable", "tall"])
def test_gradients_of_any_order(draw, case, taps):
    f = draw(*TAPS[taps])
    x = draw(1, 2, 7, 6, dtype=torch.float64).requires_grad_()

    def op(value):
        return upfirdn2d(value, f, **CASES[case])

    assert gradcheck(op, (x,), fast_mode=True)
    assert gradgradcheck(op, (x,), fast_mode=True)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    taps=st.integers(1, 9),
    up=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    down=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(*[st.integers(-2, 9)] * 4),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_forward_and_adjoint_for_any_layout(
    reference_upfirdn2d, near, size, taps, up, down, pads, flip, dtype
):
    f = torch.linspace(0.3, 1.7, taps)
    x = torch.arange(2.0 * size[0] * size[1], dtype=torch.float64).sin().reshape(1, 2, *size)
    kept = [size[0] * up[1] + min(pads[2], 0) + min(pads[3], 0)]
    kept.append(size[1] * up[0] + min(pads[0], 0) + min(pads[1], 0))
    options = {"up": up, "down": down, "padding": pads, "flip_filter": flip}
    padded = size[1] * up[0] + pads[0] + pads[1], size[0] * up[1] + pads[2] + pads[3]
    assume(min(kept) >= 1 and min(padded) >= taps)
    a, b = x.clone().requires_grad_(), x.to(dtype).requires_grad_()
    expected, found = reference_upfirdn2d(a, f, **options), upfirdn2d(b, f, **options)
    near(found, expected)
    cotangent = torch.arange(expected.numel(), dtype=x.dtype).cos().reshape(expected.shape)
    expected.backward(cotangent)
    found.backward(cotangent.to(dtype))
    near(b.grad, a.grad)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_agrees_with_scipy(draw, up, down):
    x, f = draw(1, 1, 11, 9), draw(9)
    expected = x[0, 0].numpy().astype(np.float64)
    for axis in (0, 1):
        expected = scipy.signal.upfirdn(f.numpy(), expected, up, down, axis=axis)
    # scipy ends the signal with its last sample, without the zeros after it
    found = upfirdn2d(x, f, up=up, down=down, padding=(8, 9 - up, 8, 9 - up))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=2e-5)


def test_wrappers_keep_or_scale_the_size(draw):
    x, f = draw(2, 3, 8, 6), setup_filter([1, 3, 3, 1])
    assert filter2d(x, f).shape == (2, 3, 8, 6)
    assert upsample2d(x, f).shape == (2, 3, 16, 12)
    assert downsample2d(x, f).shape == (2, 3, 4, 3)
    assert upsample2d(x, f, up=(2, 1)).shape == (2, 3, 8, 12)
    assert downsample2d(x, f, padding=2).shape == (2, 3, 6, 5)


def test_wrappers_keep_a_constant_image():
    x, f = torch.ones(1, 1, 16, 16), setup_filter([1, 3, 3, 1])
    for op in (filter2d, upsample2d, downsample2d):
        inside = op(x, f)[:, :, 2:-2, 2:-2]
        torch.testing.assert_close(inside, torch.ones_like(inside))


def test_filters_keep_the_place_of_what_they_filter():
    """An odd filter is centered; of an even one, one tap more reaches to the right."""
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3, 3] = 1
    cases = {(1.0, 2, 4): [0, 0, 1, 2, 4, 0, 0], (1.0, 2, 4, 8): [0, 0, 1, 2, 4, 8, 0]}
    for taps, expected in cases.items():
        across, along = torch.tensor([taps]), torch.tensor(taps)[:, None].contiguous()
        assert filter2d(x, across)[0, 0, 3].tolist() == pytest.approx(expected, abs=1e-5)
        assert filter2d(x, along)[0, 0, :, 3].tolist() == pytest.approx(expected, abs=1e-5)


def test_setup_filter():
    short = setup_filter([1, 3, 3, 1])
    assert short.shape == (4, 4)
    torch.testing.assert_close(short[1, 1], torch.tensor(9 / 64))
    long = setup_filter(list(range(1, 9)))
    assert long.shape == (8,) and float(long.sum()) == pytest.approx(1)
    assert setup_filter(None).tolist() == [[1]]
    assert setup_filter([[1, 1], [1, 1]]).tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_layout_of_the_input_does_not_matter(draw):
    x, f = draw(2, 6, 9, 8), draw(8)
    expected = upfirdn2d(x, f, up=2, padding=4)
    for other in (
        x.transpose(2, 3).contiguous().transpose(2, 3),
        draw(2, 12, 9, 8)[:, ::2] * 0 + x,
    ):
        assert torch.equal(upfirdn2d(other, f, up=2, padding=4), expected)
    channels_last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(upfirdn2d(channels_last, f, up=2, padding=4), expected)


def test_many_planes_go_through_in_groups(draw, reference_upfirdn2d):
    x, f = draw(3, 20, 96, 96), draw(8)
    expected = reference_upfirdn2d(x, f, up=2, padding=4)
    torch.testing.assert_close(upfirdn2d(x, f, up=2, padding=4), expected, atol=1e-4, rtol=0)


def test_empty_batch():
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    y = upfirdn2d(x, torch.ones(8), up=2, padding=4)
    assert y.shape == (0, 3, 17, 17)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(draw, dtype):
    x, f = draw(2, 4, 12, 12), setup_filter(torch.ones(8))
    y = upfirdn2d(x.to(dtype), f, up=2, padding=(4, 3), gain=4)
    assert y.dtype == dtype
    expected = upfirdn2d(x, f, up=2, padding=(4, 3), gain=4)
    error = (y.float() - expected).abs().max() / expected.abs().max()
    assert float(error) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("x", "f", "options", "part"),
    [
        (torch.ones(3, 8, 8), None, {}, r"\[N, C, H, W\]"),
        (torch.ones(1, 1, 8, 8, dtype=torch.int64), None, {}, "int64"),
        (torch.ones(1, 1, 8, 8), torch.ones(2, 2, 2), {}, "height, width"),
        (torch.ones(1, 1, 8, 8), torch.ones(4, dtype=torch.float16), {}, "float32"),
        (torch.ones(1, 1, 8, 8), torch.ones(4, requires_grad=True), {}, "constant"),
        (torch.ones(1, 1, 8, 8), torch.ones(12), {}, "smaller than the filter"),
        (torch.ones(1, 1, 8, 8), None, {"up": 0}, "up must be"),
        (torch.ones(1, 1, 8, 8), torch.ones(8), {"gain": -1}, "gain must be 0 or more"),
        (torch.ones(1, 1, 8, 8), torch.ones(8), {"gain": float("nan")}, "gain must be 0 or more"),
        (torch.ones(1, 1, 8, 8), None, {"down": (1, 2, 3)}, "down must be"),
        (torch.ones(1, 1, 8, 8), None, {"padding": (1, 2, 3)}, "padding must be"),
    ],
)
def test_wrong_arguments_are_worded(x, f, options, part):
    with pytest.raises(ValueError, match=part):
        upfirdn2d(x, f, **options)


@pytest.mark.parametrize("has_kernel", [True, False])
@pytest.mark.parametrize("size", [(8, 6), (9, 7)])
def test_a_branch_is_the_image_and_its_copy_with_both_gradients(
    monkeypatch, draw, has_kernel, size
):
    monkeypatch.setattr(downsample_branch, "has_kernels", lambda x, part: has_kernel)
    x, f = draw(2, 3, *size, dtype=torch.float64), setup_filter([1, 3, 3, 1])

    def branch(x):
        return downsample_branch.downsample_branch(x, f)

    def separate(x):
        return x * 1, downsample2d(x, f)

    found, expected = ([], [])
    for op, numbers in ((branch, found), (separate, expected)):
        leaf = x.clone().requires_grad_()
        y, small = op(leaf)
        loss = (y.sin() * 2).sum() + small.cos().sum()
        (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)  # in one op
        (same,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (second,) = torch.autograd.grad(same.square().sum(), leaf)
        numbers += [y, small, first, same, second]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_sum_with_a_resampled_image_is_a_sound_op(draw):
    x, f = draw(2, 3, 5, 4, dtype=torch.float64), setup_filter([1, 3, 3, 1])
    base = draw(2, 3, 10, 8, dtype=torch.float64)
    arguments = (x, f, base, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0)
    opcheck(torch.ops.sg3flow.upfirdn2d_add.default, arguments)
    y = torch.ops.sg3flow.upfirdn2d_add(*arguments)
    torch.testing.assert_close(y, base + upsample2d(x, f))
