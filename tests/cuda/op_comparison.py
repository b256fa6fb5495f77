"""How results of ops are compared with plain PyTorch, on a GPU and on its stand-ins."""

import torch


def error_of(found, expected):
    """The norm of the difference relative to the expected tensor; NaN fails every comparison."""
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).norm() / expected.double().norm()
    return float(difference)


def share_beyond(found, expected, limit):
    """The share of elements that differ by more than `limit` of the largest; NaN always does.

    Rounding can move a sample near 0, or near the clamp, to the other side, and then its gradient
    differs: a few elements, in any precision.
    """
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs()
    return float((~(difference <= limit * expected.abs().max())).double().mean())


def results(op, x, b, options, numbers):
    """Forward, first and second order of an op in x and b, all through autograd."""
    x, b = x.clone().requires_grad_(), b.clone().requires_grad_()
    y = op(x, b, **options)
    g = numbers(*y.shape, seed=7, dtype=y.dtype, device=y.device).requires_grad_()
    dx, db = torch.autograd.grad(y, (x, b), g, create_graph=True)
    v = numbers(*dx.shape, seed=8, dtype=y.dtype, device=y.device)
    (dg,) = torch.autograd.grad(dx, g, v)
    return y.detach(), dx.detach(), db.detach(), dg


def assert_single_precision(found, expected):
    """Of ``results`` in float32."""
    (y, dx, db, dg), (exact_y, exact_dx, exact_db, exact_dg) = found, expected
    assert error_of(y, exact_y) <= 2e-6
    assert share_beyond(dx, exact_dx, 1e-5) <= 2e-3
    assert share_beyond(dg, exact_dg, 1e-5) <= 2e-3
    assert error_of(db, exact_db) <= 2e-2


def path_lengths(op, x, w, s):
    """Results and gradients, and those of a path length: the gradient of the styles again."""
    leaves = [each.clone().requires_grad_() for each in (x, w, s)]
    y = op(*leaves)
    ones = torch.ones(y.shape, dtype=y.dtype, device=y.device)
    first = torch.autograd.grad(y, leaves, ones, create_graph=True)
    second = torch.autograd.grad(first[2].float().square().sum(), leaves[1:])
    return [each.detach() for each in (y, *first, *second)]
