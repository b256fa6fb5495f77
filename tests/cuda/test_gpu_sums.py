"""Passes that kernels make beside their own work, on a GPU, against separate ops."""

import pytest
import torch
from op_comparison import error_of

from sg3flow.ops import bias_act, setup_filter, upfirdn2d
from sg3flow.ops.act_filter import filtered_act
from sg3flow.ops.filtered_lrelu import filtered_lrelu_squares

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("card")]

GPU = torch.device("cuda", 0)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (31, 17)])
def test_activation_with_a_filter_or_a_sum(numbers, dtype, filtered, size):
    x, b = numbers(4, 8, *size, dtype=dtype, device=GPU), numbers(8, dtype=dtype, device=GPU)
    f, padding = setup_filter([1, 3, 3, 1], device=GPU), (2, 2, 2, 2)

    def joined(x, b):
        return filtered_act(x, b, 1.4, 0.9, f, padding) if filtered else filtered_act(x, b, base=x)

    def separate(x, b):
        if filtered:
            return upfirdn2d(bias_act(x, b, "lrelu", 1.4, 0.9), f, padding=padding)
        return bias_act(x, b, "lrelu") + x

    found, expected = (
        [y := op(*leaves), *torch.autograd.grad(y.float().square().sum(), leaves)]
        for op in (joined, separate)
        for leaves in [[t.clone().requires_grad_() for t in (x, b)]]
    )
    for one, other in zip(found, expected, strict=True):
        assert error_of(one.detach(), other.detach()) <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["t", "t-up4", "r", "r-up4"])
def test_sums_of_a_layer(layer, kind, dtype):
    x, fu, fd, b, options = layer(kind, (67, 61), dtype, GPU, planes=(5, 9))
    x, b = x.requires_grad_(), b.requires_grad_()
    y, squares = filtered_lrelu_squares(x, fu, fd, b, clamp=1.1, **options)
    exact = y.detach().double().square().sum()
    assert abs(float(squares) / float(exact) - 1) <= torch.finfo(dtype).eps
    dx, db = torch.autograd.grad(y.float().square().sum(), (x, b))
    assert error_of(db, dx.double().sum(dim=(0, 2, 3))) <= 4 * torch.finfo(dtype).eps
