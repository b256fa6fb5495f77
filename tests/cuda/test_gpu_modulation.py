"""Modulated convolutions and branches on a GPU, by kernels and in plain PyTorch."""

import pytest
import torch
from op_comparison import error_of, path_lengths

from sg3flow.ops import modulated_conv2d, setup_filter
from sg3flow.ops.downsample_branch import downsample_branch

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("card")]

GPU = torch.device("cuda", 0)


def convolution(dtype, k):
    def op(x, w, s):
        options = {"padding": k - 1, "normalize": "rms", "per_sample": True}
        return modulated_conv2d(x.to(dtype), w, s, **options)

    return op


# Channels of T and R: whole and partial tiles, rows of every alignment.
@pytest.mark.parametrize(("c_in", "c_out"), [(512, 512), (362, 256), (181, 128), (967, 645)])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_modulated_convolutions(plain, numbers, c_in, c_out, k, dtype):
    shapes = ((9, c_in, 6, 6), (c_out, c_in, k, k), (9, c_in))
    tensors = [numbers(*shape, seed=i, device=GPU) for i, shape in enumerate(shapes)]
    exact = plain(path_lengths, convolution(torch.float64, k), *(t.double() for t in tensors))
    theirs = plain(path_lengths, convolution(dtype, k), *tensors)
    ours = path_lengths(convolution(dtype, k), *tensors)
    for found, other, wanted in zip(ours, theirs, exact, strict=True):
        assert error_of(found, wanted) <= 2 * error_of(other, wanted) + 1e-6


def test_results_repeat_bit_for_bit(numbers):
    shapes = ((9, 100, 6, 6), (90, 100, 3, 3), (9, 100))
    tensors = [numbers(*shape, seed=i, device=GPU) for i, shape in enumerate(shapes)]
    op = convolution(torch.float16, 3)
    w, s = (t.requires_grad_() for t in tensors[1:])
    first, again = (
        torch.ops.sg3flow.scaled_weights_grad(
            torch.ones(9, 90, 100, 3, 3, device=GPU), w.detach(), None, s.detach()
        )
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(op(tensors[0], w, s), op(tensors[0], w, s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (31, 17)])
def test_two_gradients_of_an_image_meet(plain, numbers, dtype, size):
    x, f = numbers(4, 8, *size, dtype=dtype, device=GPU), setup_filter([1, 3, 3, 1], device=GPU)

    def gradient(x):
        leaf = x.clone().requires_grad_()
        y, small = downsample_branch(leaf, f)
        return torch.autograd.grad((y * 2).sum() + (small * small).sum(), leaf)[0]

    exact = plain(gradient, x.double())
    assert error_of(gradient(x), exact) <= 2 * error_of(plain(gradient, x), exact) + 1e-6
