"""The forms with few launches against those with one operation after the other."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator, stylegan3
from sg3flow.networks.equalized import scaled_copies, scaled_linear
from sg3flow.networks.layers import FullyConnectedLayer
from sg3flow.ops import (
    filtered_lrelu,
    modulation_registration,  # noqa: F401 - declares the ops
)

FUSED = (
    "sg3flow.networks.layers.has_fused_forms",
    "sg3flow.networks.discriminator.has_fused_forms",
    "sg3flow.networks.stylegan3.has_fused_forms",
    "sg3flow.ops.modulation.has_scaled_weights",
    "sg3flow.ops.modulation.is_per_sample",
    "sg3flow.ops.act_filter.has_kernels",
)


def lrelu_and_squares(**options):
    """What kernels of a GPU give together."""
    y = filtered_lrelu(**options)
    return y, y.detach().square().sum()


@pytest.fixture
def fused(monkeypatch):
    """Call it to use the forms of a GPU on the CPU from then on."""

    def use():
        for name in FUSED:
            monkeypatch.setattr(name, lambda *_: True)
        monkeypatch.setattr(stylegan3, "filtered_lrelu_squares", lrelu_and_squares)

    return use


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("bias_gain", [1, 0.01])
def test_scaled_linear_and_its_gradients(bias_gain):
    x, w, b = (value.requires_grad_() for value in (normal(4, 3), normal(5, 3), normal(5)))

    def op(x, w, b):
        return scaled_linear(x, w, b, 0.3, bias_gain)

    torch.testing.assert_close(op(x, w, b), x @ (0.3 * w).t() + bias_gain * b)
    torch.testing.assert_close(scaled_linear(x, w, None, 0.3, 1), x @ (0.3 * w).t())
    assert gradcheck(op, (x, w, b)) and gradgradcheck(op, (x, w, b))


def test_scaled_copies_and_their_gradients():
    tensors = [normal(3, 2).requires_grad_(), normal(4).requires_grad_()]

    def op(*tensors):
        return tuple(scaled_copies(tensors, [0.3, 2.0], [torch.float64] * 2))

    for found, tensor, scale in zip(op(*tensors), tensors, (0.3, 2.0), strict=True):
        assert torch.equal(found, tensor * scale)
    assert gradcheck(op, tensors) and gradgradcheck(op, tensors)


def test_scaled_copies_round_once():
    """The product is rounded, not the factor, and gradients are scaled in float32."""
    w = normal(64, dtype=torch.float32).requires_grad_()
    unused = normal(3, dtype=torch.float32).requires_grad_()
    half, _ = scaled_copies([w, unused], [1 / 3, 2.0], [torch.float16] * 2)
    assert torch.equal(half, (w * (1 / 3)).to(torch.float16))
    cotangent = normal(64, seed=1, dtype=torch.float32).to(torch.float16)
    found = torch.autograd.grad(half, [w, unused], cotangent, allow_unused=True)
    assert torch.equal(found[0], cotangent.to(torch.float32) * (1 / 3)) and found[1] is None


@pytest.mark.parametrize(
    "options", [{}, {"activation": "lrelu", "lr_multiplier": 0.01}, {"bias": False}]
)
def test_a_fully_connected_layer_is_the_same(fused, options):
    torch.manual_seed(0)
    layer, x = FullyConnectedLayer(6, 5, **options).double(), normal(4, 6)
    expected = layer(x)
    fused()
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("freeze", [0, 3])
def test_a_discriminator_and_its_r1_penalty_are_the_same(fused, freeze):
    torch.manual_seed(0)
    D = Discriminator(
        0, 16, 3, channel_base=64, channel_max=4, block_kwargs={"freeze_layers": freeze}
    ).double()
    with torch.no_grad():
        for parameter in D.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    img = normal(4, 3, 16, 16).requires_grad_()

    def numbers():
        (gradient,) = torch.autograd.grad(D(img, None).sum(), img, create_graph=True)
        penalty = gradient.square().sum()
        return [gradient, *torch.autograd.grad(penalty, list(D.parameters()), allow_unused=True)]

    expected = numbers()
    fused()
    for found, wanted in zip(numbers(), expected, strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [StyleGAN3Generator, StyleGAN2Generator])
def test_a_generator_and_its_path_lengths_are_the_same(fused, kind):
    torch.manual_seed(0)
    sizes = {"channel_base": 64, "channel_max": 4}
    G = kind(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3, **sizes).double()
    ws = normal(4, G.num_ws, 8).requires_grad_()
    state = {name: tensor.clone() for name, tensor in G.state_dict().items()}

    def numbers():
        G.load_state_dict(state)
        img = G.synthesis(ws, update_emas=True)
        (gradient,) = torch.autograd.grad(img.sin().sum(), ws, create_graph=True)
        length = gradient.square().sum()
        found = torch.autograd.grad(length, list(G.synthesis.parameters()), allow_unused=True)
        buffers = [buffer.clone() for buffer in G.synthesis.buffers()]
        return [img.detach(), gradient.detach(), *found, *buffers]

    expected = numbers()
    fused()
    for found, wanted in zip(numbers(), expected, strict=True):
        assert (found is None) == (wanted is None)
        if found is not None:
            size = float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * size)
