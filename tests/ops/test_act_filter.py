"""Activation with a filter or a sum as one op: its definition on the CPU, and where it serves."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from sg3flow.ops import act_filter, bias_act, setup_filter, upfirdn2d
from sg3flow.ops.act_filter import filtered_act

DOUBLE = torch.float64
SLOPE, GAIN, CLAMP = 0.2, 1.3, 0.9
ZEROS = (0, 0, 0, 0)
SIZE, WIDE = (2, 2, 2, 3), (2, 2, 6, 7)


def inputs(draw, size=SIZE, dtype=DOUBLE):
    """(x, b, f, base): away from 0 and from the clamp, where gradients jump; f is not symmetric."""
    x = draw(*size, dtype=dtype)
    x = x.sign() * (0.3 + x.abs().clamp(max=2))
    x = torch.where(x < 0, 3 * x, x)  # some reach the clamp
    f = torch.arange(16.0).reshape(4, 4).sin()
    return x, torch.tensor([0.05, -0.1], dtype=dtype), f, draw(*size, dtype=dtype)


def forms(f, base=None):
    """(filter, padding, summand)."""
    return ((f, (2, 1, 1, 2), base), (f, (0, 3, 2, 2), None), (None, ZEROS, base))


@pytest.fixture
def one_op(monkeypatch):
    """The form of a GPU, on the CPU; its op is implemented in pure PyTorch there."""
    monkeypatch.setattr(act_filter, "has_kernels", lambda x, part: True)


def separate(x, b, f, padding, base):
    y = bias_act(x, b, act="lrelu", gain=GAIN, clamp=CLAMP)
    y = y if f is None else upfirdn2d(y, f, padding=padding)
    return y if base is None else y + base


def test_it_is_the_ops_that_it_consists_of(draw, one_op):
    x, b, f, base = (t.requires_grad_() if t.dtype == DOUBLE else t for t in inputs(draw))
    for taps, padding, last in forms(f, base):
        given = [x, b] if last is None else [x, b, last]
        y = filtered_act(x, b, GAIN, CLAMP, taps, padding, last)
        expected = separate(x, b, taps, padding, last)
        torch.testing.assert_close(y, expected)
        g = torch.arange(y.numel(), dtype=DOUBLE).cos().reshape(y.shape)
        for found, wanted in zip(
            torch.autograd.grad(y, given, g), torch.autograd.grad(expected, given, g), strict=True
        ):
            torch.testing.assert_close(found, wanted)


def test_gradients_of_every_order(draw, one_op):
    x, b, f, _ = inputs(draw)
    x, b = x.requires_grad_(), b.requires_grad_()
    for taps, padding, _ in forms(f):

        def op(x, b, taps=taps, padding=padding):
            return filtered_act(x, b, GAIN, CLAMP, taps, padding)

        assert gradcheck(op, (x, b))
        assert gradgradcheck(op, (x, b))


def test_the_sum_over_channels_has_a_gradient(draw):
    x, b, f, _ = inputs(draw)
    for taps, padding, _ in forms(f):
        y, flags = torch.ops.sg3flow.act_filter(x, b, taps, None, padding, SLOPE, GAIN, CLAMP, True)
        g = torch.arange(y.numel(), dtype=DOUBLE).cos().reshape(y.shape).requires_grad_()

        def gradients(g, taps=taps, padding=padding, flags=flags):
            return torch.ops.sg3flow.act_filter_grad(g, flags, taps, SIZE[2:], padding, SLOPE, GAIN)

        dx, db = gradients(g)
        torch.testing.assert_close(db, dx.sum(dim=(0, 2, 3)))
        assert gradcheck(gradients, (g,))
        assert gradgradcheck(gradients, (g,))
        results = [(dx * dx.detach()).sum(), (db * db.detach()).sum()]
        apart = [torch.autograd.grad(one, g, retain_graph=True)[0] for one in results]
        (both,) = torch.autograd.grad(sum(results), g)
        torch.testing.assert_close(both, apart[0] + apart[1])


@pytest.mark.medium
def test_the_ops_are_declared_right(draw):
    x, b, f, base = inputs(draw, WIDE)
    ops = torch.ops.sg3flow
    for taps, padding, last in ((f, (2, 1, 1, 2), base), (None, ZEROS, None)):
        given = (x.requires_grad_(), b.requires_grad_(), taps, last)
        opcheck(ops.act_filter, (*given, padding, SLOPE, GAIN, CLAMP, True))
        y, flags = ops.act_filter(*given, padding, SLOPE, GAIN, -1.0, True)
        g = torch.ones_like(y).requires_grad_()
        opcheck(ops.act_filter_grad, (g, flags, taps, WIDE[2:], padding, SLOPE, GAIN))
        if taps is not None:
            opcheck(ops.act_filter_flagged, (x, flags, taps, padding, SLOPE, GAIN))


def test_only_the_summand_needs_no_flags(draw, one_op):
    x, b, _, base = inputs(draw, WIDE)
    y = filtered_act(x, b, GAIN, CLAMP, base=base.requires_grad_())
    (found,) = torch.autograd.grad(y.sum(), base)
    assert torch.equal(found, torch.ones_like(base))
    y, _ = torch.ops.sg3flow.act_filter(
        x.requires_grad_(), b, None, None, ZEROS, SLOPE, GAIN, CLAMP, False
    )
    with pytest.raises(RuntimeError, match="write_flags=True"):
        torch.autograd.grad(y.sum(), x)


def test_other_filters_and_paddings_take_separate_ops(draw, one_op, monkeypatch):
    monkeypatch.setattr(act_filter, "_compiled", None)  # would fail
    x, b, f, _ = inputs(draw, WIDE)
    for taps, padding in ((f[:3], (1, 1, 1, 1)), (f[0], ZEROS), (f, (4, 0, 0, 0)), (f, (-1,) * 4)):
        found = filtered_act(x, b, GAIN, CLAMP, taps, padding)
        torch.testing.assert_close(found, separate(x, b, taps, padding, None))
    assert setup_filter([1, 3, 3, 1]).shape == (4, 4)
