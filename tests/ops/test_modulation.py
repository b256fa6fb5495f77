"""The weights of modulated convolutions in one pass, against one step after the other."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from sg3flow.ops import modulated_conv2d, modulation
from sg3flow.ops import modulation_registration as ops

DOUBLE = torch.float64


@pytest.fixture
def one_pass(monkeypatch):
    """The form of a GPU, on the CPU; its ops are implemented in pure PyTorch there."""
    monkeypatch.setattr(modulation, "has_scaled_weights", lambda x, w: True)
    monkeypatch.setattr(modulation, "is_per_sample", lambda x, w, padding, up: True)


def inputs(draw, k, dtype=DOUBLE):
    return draw(3, 4, 6, 6, dtype=dtype), draw(5, 4, k, k, dtype=dtype), draw(3, 4, dtype=dtype)


def numbers(op, tensors):
    """Results, first-order gradients, and those of a path length, which differentiates again."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    y = op(*tensors)
    cotangent = torch.arange(y.numel(), dtype=y.dtype).sin().reshape(y.shape)
    first = torch.autograd.grad(y, tensors, cotangent, create_graph=True)
    second = torch.autograd.grad(first[2].square().sum(), tensors, materialize_grads=True)
    return [y.detach(), *(gradient.detach() for gradient in (*first, *second))]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "rms", "input_gain": torch.tensor(1.7, dtype=DOUBLE)},
        {"normalize": "max"},
        {"demodulate": False, "input_gain": torch.tensor([1.0, 2, 3, 4], dtype=DOUBLE)},
    ],
)
def test_both_forms_have_the_same_results_and_gradients(draw, monkeypatch, k, options):
    tensors = inputs(draw, k)

    def op(x, w, s):
        return modulated_conv2d(x, w, s, padding=k // 2, per_sample=True, **options)

    expected = numbers(op, tensors)
    monkeypatch.setattr(modulation, "has_scaled_weights", lambda x, w: True)
    for found, wanted in zip(numbers(op, tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_the_epsilon_is_that_of_normalized_weights_and_styles(draw, one_pass):
    """Tiny weights and styles count as much as normal ones, where they are normalized."""
    x, w, s = inputs(draw, 3)
    y = modulated_conv2d(x, w, s, padding=1, normalize="rms")
    tiny = modulated_conv2d(x, w * 1e-6, s * 1e-6, padding=1, normalize="rms")
    torch.testing.assert_close(tiny, y, rtol=1e-6, atol=1e-9)
    without = modulated_conv2d(x, w * 1e-6, s * 1e-6, padding=1)
    assert float(without.abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_half_precision_rounds_the_weights_once(draw, one_pass, dtype, scale):
    """Styles beyond the range of float16 are in no product that is rounded to it."""
    _, w, s = inputs(draw, 3, torch.float32)
    w, s = w * scale, s * scale
    found = modulation._in_one_pass(w, s, True, None, "rms", dtype)
    exact = modulation._sample_weights(w.double(), s.double(), True, None)
    assert found.dtype == dtype and bool(torch.isfinite(found).all())
    step = torch.finfo(dtype).eps / 2  # of one rounding
    error = ((found.double() - exact) / exact).abs().max()
    assert float(error) <= step * 1.01


@pytest.mark.parametrize("with_a", [True, False])
def test_scaled_weights_is_a_sound_op(draw, with_a):
    w, b = draw(2, 3, 2, 2, dtype=DOUBLE).requires_grad_(), draw(2, 3, dtype=DOUBLE)
    b.requires_grad_()
    a = draw(2, 2, dtype=DOUBLE).requires_grad_() if with_a else None
    grad = draw(2, 2, 3, 2, 2, dtype=DOUBLE).requires_grad_()
    given = [t for t in (w, a, b) if t is not None]

    def op(*tensors):
        w, *others = tensors
        return torch.ops.sg3flow.scaled_weights(w, *(others if with_a else (None, *others)), DOUBLE)

    def op_grad(grad, w, *others):
        factors = others if with_a else (None, *others)
        made = torch.ops.sg3flow.scaled_weights_grad(grad, w, *factors)
        return tuple(each for each in made if each.numel())

    assert gradcheck(op, given) and gradgradcheck(op, given)
    assert gradcheck(op_grad, [grad, *given]) and gradgradcheck(op_grad, [grad, *given])
    opcheck(torch.ops.sg3flow.scaled_weights.default, (w, a, b, DOUBLE))
    opcheck(torch.ops.sg3flow.scaled_weights_grad.default, (grad, w, a, b))


@pytest.mark.parametrize("relative", [True, False])
def test_demodulation_is_a_sound_op(draw, relative):
    w, s = draw(2, 3, 2, 2, dtype=DOUBLE).requires_grad_(), draw(2, 3, dtype=DOUBLE)
    s.requires_grad_()

    def op(w, s):
        return torch.ops.sg3flow.demodulation(w, s, 1e-8, relative)

    assert gradcheck(op, (w, s)) and gradgradcheck(op, (w, s))
    opcheck(torch.ops.sg3flow.demodulation.default, (w, s, 1e-8, relative))
    a, grad = op(w, s).detach(), draw(2, 2, dtype=DOUBLE)
    found = torch.ops.sg3flow.demodulation_grad(grad, a, w.detach(), s.detach())
    for gradient, expected in zip(found, torch.autograd.grad(op(w, s), (w, s), grad), strict=True):
        torch.testing.assert_close(gradient, expected)
    opcheck(torch.ops.sg3flow.demodulation_grad.default, (grad, a, w.detach(), s.detach()))


def test_a_product_with_weights_of_each_sample_reads_them_off(draw, one_pass):
    w, s = draw(4, 3, 1, 1), draw(2, 3)
    x = torch.eye(3).reshape(1, 3, 1, 3).repeat(2, 1, 1, 1)
    weights = modulated_conv2d(x, w, s)  # [N, out, 1, in]
    torch.testing.assert_close(weights.square().sum(dim=3), torch.ones(2, 4, 1))
    torch.testing.assert_close(
        weights[:, :, 0],
        ops.scaled_weights(w, ops.demodulation(w, s, 1e-8, False), s, torch.float32)[..., 0, 0],
    )
