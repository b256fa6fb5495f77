"""The discriminator against the independent implementation, twice differentiated for R1."""

import pytest
import torch


def inputs(arrays):
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    return x, torch.from_numpy(arrays["c"]) if "c" in arrays else torch.zeros(len(x), 0)


@pytest.mark.parametrize("name", ["c0", "c3"])
def test_logits_and_gradients(golden_discriminator, relative_error, name):
    D, arrays = golden_discriminator(name)
    x, c = inputs(arrays)
    logits = D(x, c)
    assert relative_error(logits, arrays["logits"]) <= 1e-4
    logits.sum().backward()
    assert relative_error(x.grad, arrays["dx"]) <= 2e-5
    for key, p in D.named_parameters():
        assert relative_error(p.grad, arrays[f"grad.{key}"]) <= 2e-5, key


@pytest.mark.parametrize("name", ["c0", "c3"])
def test_r1_and_its_gradients(golden_discriminator, relative_error, name):
    D, arrays = golden_discriminator(name)
    x, c = inputs(arrays)
    (g,) = torch.autograd.grad(D(x, c).sum(), x, create_graph=True)
    penalty = g.square().sum(dim=(1, 2, 3))
    assert relative_error(penalty, arrays["r1_penalty"]) <= 2e-5
    penalty.sum().backward()
    for key, p in D.named_parameters():
        if key == "b4.out.bias":  # the penalty does not depend on it
            assert p.grad is None
        else:
            assert relative_error(p.grad, arrays[f"grad_r1.{key}"]) <= 3e-4, key


def test_logits_where_channels_differ_and_clamps_are_reached(golden_discriminator, relative_error):
    D, arrays = golden_discriminator("shapes", channel_base=512, channel_max=64, conv_clamp=0.4)
    assert relative_error(D(*inputs(arrays)), arrays["logits"]) <= 1e-4
