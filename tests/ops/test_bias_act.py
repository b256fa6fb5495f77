import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from sg3flow.ops import bias_act

pytestmark = pytest.mark.usefixtures("each_backend")


def definition(x, b, act, gain, clamp):
    y = x + (b if x.ndim == 2 else b[:, None, None])
    y = F.leaky_relu(y, 0.2) if act == "lrelu" else y
    y = y * (gain or (math.sqrt(2) if act == "lrelu" else 1))
    return y if clamp is None else y.clamp(-clamp, clamp)


@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("gain", [None, 0.5])
@pytest.mark.parametrize("clamp", [None, 0.6, 256])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_the_definition(draw, near, act, gain, clamp, shape, dtype):
    x, b = draw(*shape, dtype=dtype), draw(4, dtype=dtype)
    results = []
    for op, kind in ((definition, torch.float64), (bias_act, dtype)):
        inputs = x.to(kind, copy=True).requires_grad_(), b.to(kind, copy=True).requires_grad_()
        y = op(*inputs, act=act, gain=gain, clamp=clamp)
        cotangent = torch.arange(y.numel(), dtype=kind).sin().reshape(shape)
        results.append([y, *torch.autograd.grad(y, inputs, cotangent)])
    for expected, found in zip(*results, strict=True):
        assert found.dtype == dtype
        near(found, expected)


@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("gain", [None, 0.5])
@pytest.mark.parametrize("clamp", [None, 0.6, 256])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5, 3)])
def test_gradients_of_any_order(draw, act, gain, clamp, shape):
    x = draw(*shape, dtype=torch.float64).requires_grad_()
    b = draw(4, dtype=torch.float64).requires_grad_()

    def op(x, b):
        return bias_act(x, b, act=act, gain=gain, clamp=clamp)

    assert gradcheck(op, (x, b))
    assert gradgradcheck(op, (x, b))


def test_second_order_through_r1(draw):
    x, w = draw(4, 3, dtype=torch.float64).requires_grad_(), draw(3, 3, dtype=torch.float64)
    w.requires_grad_()

    def penalty(op):
        (g,) = torch.autograd.grad(op(x @ w).square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), w)[0]

    expected = penalty(lambda v: F.leaky_relu(v, 0.2) * math.sqrt(2))
    torch.testing.assert_close(penalty(lambda v: bias_act(v, act="lrelu")), expected)


def test_clamped_samples_have_no_gradient():
    x = torch.tensor([[-9.0, -0.1, 0.1, 9.0]], requires_grad=True)
    bias_act(x, act="linear", clamp=1).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 0]]


def test_empty_and_half(draw):
    assert bias_act(torch.empty(0, 3, 4, 4), torch.zeros(3), "lrelu", clamp=1).shape == (0, 3, 4, 4)
    y = bias_act(draw(2, 3, dtype=torch.float16), draw(3, dtype=torch.float16), "lrelu", clamp=1)
    assert y.dtype == torch.float16 and float(y.abs().max()) <= 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"act": "relu"}, "'linear' or 'lrelu'"),
        ({"b": torch.ones(3)}, r"b must be \[2\]"),
        ({"gain": 0}, "gain"),
        ({"clamp": -1}, "clamp"),
    ],
)
def test_wrong_arguments_are_worded(options, part):
    with pytest.raises(ValueError, match=part):
        bias_act(torch.ones(1, 2), **options)
