import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from sg3flow.ops import conv2d_resample, modulated_conv2d, setup_filter

pytestmark = pytest.mark.usefixtures("each_backend")


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("size", [8, 9])
def test_downsampling_is_filter_then_stride(draw, reference_upfirdn2d, k, size):
    x, w, f = draw(2, 3, size, size), draw(5, 3, k, k), setup_filter([1, 3, 3, 1])
    p = k // 2
    filtered = reference_upfirdn2d(x, f, padding=(1 + p, 1 + p))
    expected = F.conv2d(filtered, w, stride=2)
    found = conv2d_resample(x, w, f, down=2, padding=p)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 3])
def test_upsampling_is_zero_insertion_then_convolution_then_filter(draw, reference_upfirdn2d, k):
    x, w, f = draw(2, 3, 6, 7), draw(5, 3, k, k), setup_filter([1, 3, 3, 1])
    inserted = reference_upfirdn2d(x, None, up=2, padding=(0, -1, 0, -1))
    # transposed convolution: true convolution with the weight, full support
    convolved = F.conv2d(inserted, w.flip((2, 3)), padding=k - 1)
    pad = 1 if k == 3 else 2
    expected = reference_upfirdn2d(convolved, f, padding=(pad, pad), gain=4)
    found = conv2d_resample(x, w, f, up=2, padding=k // 2)
    assert found.shape == (2, 5, 12, 14)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("k", [1, 3])
def test_groups_are_separate_convolutions(draw, up, k):
    x, w, f = draw(2, 4, 6, 6), draw(6, 2, k, k), setup_filter([1, 3, 3, 1])
    found = conv2d_resample(x, w, f, up=up, padding=k // 2, groups=2)
    parts = [
        conv2d_resample(x[:, 2 * g : 2 * g + 2], w[3 * g : 3 * g + 3], f, up=up, padding=k // 2)
        for g in range(2)
    ]
    torch.testing.assert_close(found, torch.cat(parts, dim=1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2}, {}])
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_of_any_order(draw, options, k):
    x = draw(1, 2, 6, 6, dtype=torch.float64).requires_grad_()
    w = draw(3, 2, k, k, dtype=torch.float64).requires_grad_()
    f = setup_filter([1, 3, 3, 1])

    def op(x, w):
        return conv2d_resample(x, w, f, padding=k // 2, **options)

    assert gradcheck(op, (x, w), fast_mode=True)
    assert gradgradcheck(op, (x, w), fast_mode=True)


def gradients(op, inputs, dtype):
    """First-order gradients, and those of R1, which differentiates the first of them again."""
    inputs = [value.detach().to(dtype).requires_grad_() for value in inputs]
    y = op(*inputs)
    cotangent = torch.arange(y.numel(), dtype=dtype).sin().reshape(y.shape)
    first = torch.autograd.grad(y, inputs, cotangent, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), inputs[1:])
    return [y.detach(), *(grad.detach() for grad in (*first, *second))]


@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2}, {}])
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_in_single_precision(draw, near, options, k):
    x, w, f = draw(2, 8, 10, 9), draw(16, 8, k, k), setup_filter([1, 3, 3, 1])

    def op(x, w):
        return conv2d_resample(x, w, f, padding=k // 2, **options)

    found, expected = (gradients(op, (x, w), dtype) for dtype in (torch.float32, torch.float64))
    for one, other in zip(found, expected, strict=True):
        near(one, other)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("up", [1, 2])
def test_gradients_of_the_modulation_in_single_precision(draw, near, per_sample, up):
    inputs, f = (draw(2, 8, 7, 7), draw(16, 8, 3, 3), draw(2, 8)), setup_filter([1, 3, 3, 1])

    def op(x, w, s):
        return modulated_conv2d(x, w, s, padding=1, per_sample=per_sample, up=up, f=f)

    found, expected = (gradients(op, inputs, dtype) for dtype in (torch.float32, torch.float64))
    for one, other in zip(found, expected, strict=True):
        near(one, other)


@pytest.mark.parametrize("channels", [5, 16])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [1, 2])
def test_both_forms_of_modulation_agree(draw, channels, demodulate, up):
    x, w, s = draw(3, channels, 7, 7), draw(16, channels, 3, 3), draw(3, channels)
    options = {"demodulate": demodulate, "padding": 1, "input_gain": torch.tensor(1.7), "up": up}
    options["f"] = setup_filter([1, 3, 3, 1])
    shared = modulated_conv2d(x, w, s, per_sample=False, **options)
    grouped = modulated_conv2d(x, w, s, per_sample=True, **options)
    torch.testing.assert_close(grouped, shared, atol=1e-4, rtol=0)
    assert modulated_conv2d(x, w, s, **options).shape == grouped.shape


def test_demodulated_weights_have_unit_norm(draw):
    w, s = draw(4, 3, 1, 1), draw(2, 3)
    x = torch.eye(3).reshape(1, 3, 1, 3).repeat(2, 1, 1, 1)  # reads the weights off
    weights = modulated_conv2d(x, w, s)  # [N, out, 1, in]
    torch.testing.assert_close(weights.square().sum(dim=3), torch.ones(2, 4, 1))


@pytest.mark.parametrize("per_sample", [True, False])
def test_gradients_of_the_modulation(draw, per_sample):
    x = draw(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    w = draw(2, 3, 3, 3, dtype=torch.float64).requires_grad_()
    s = draw(2, 3, dtype=torch.float64).requires_grad_()

    def op(x, w, s):
        return modulated_conv2d(x, w, s, padding=1, per_sample=per_sample)

    assert gradcheck(op, (x, w, s), fast_mode=True)
    assert gradgradcheck(op, (x, w, s), fast_mode=True)


def test_wrong_arguments_are_worded():
    x, w = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
    with pytest.raises(ValueError, match="not both 2"):
        conv2d_resample(x, w, up=2, down=2)
    with pytest.raises(ValueError, match="3 channels"):
        conv2d_resample(x, torch.ones(4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"s is \[N, C_in\]"):
        modulated_conv2d(x, w, torch.ones(2, 4))
