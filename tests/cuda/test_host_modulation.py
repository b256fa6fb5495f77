"""The kernels of modulated convolutions, run on the host, against plain PyTorch in float64."""

import math

import pytest
import torch

from sg3flow.ops import cuda_modulation
from sg3flow.ops import modulation_registration as plain
from sg3flow.ops.cuda_programs import demodulation_kernel, scale_grad_kernel, scale_kernel
from sg3flow.ops.cuda_structs import Demodulation, Weights

pytestmark = pytest.mark.medium

# (samples, outputs, inputs): of a tile and less, of several tiles with a rest, of 16-byte rows
SIZES = [(1, 1, 1), (3, 5, 7), (11, 37, 45), (9, 8, 64), (2, 33, 362)]


@pytest.fixture(params=SIZES)
def sizes(request):
    return request.param


@pytest.fixture(params=[1, 3])
def k(request):
    return request.param


def near(found, expected, limit):
    assert found.shape == expected.shape and not torch.isnan(found).any()
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert float(error) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_a", [True, False])
def test_scaled_weights(host_kernels, numbers, sizes, k, dtype, has_a):
    n, c_out, c_in = sizes
    w, b = numbers(c_out, c_in, k, k), numbers(n, c_in, seed=1)
    a = numbers(n, c_out, seed=2) if has_a else None
    expected = plain.scaled_weights(w, a, b, dtype)
    for run in (4, 2, 1):
        if c_in * k * k % run == 0:
            y = torch.full((n, *w.shape), math.nan, dtype=dtype)
            op = Weights(samples=n, outputs=c_out, inputs=c_in, w=w.data_ptr(), b=b.data_ptr())
            op.a, op.y = None if a is None else a.data_ptr(), y.data_ptr()
            host_kernels.run(scale_kernel(dtype, k * k, run), n * c_out, 256, op)
            assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_a", [True, False])
def test_gradients_of_scaled_weights(host_kernels, numbers, sizes, k, dtype, has_a):
    n, c_out, c_in = sizes
    w, b = numbers(c_out, c_in, k, k), numbers(n, c_in, seed=1)
    a = numbers(n, c_out, seed=2) if has_a else None
    grad = numbers(n, *w.shape, seed=3).to(dtype)
    exact = [None if t is None else t.double() for t in (grad, w, a, b)]
    expected = plain.scaled_weights_grad(*exact)
    tiles = -(-c_out // cuda_modulation.OUTPUTS[k * k]), -(-c_in // 32)
    dw = torch.full_like(w, math.nan)
    da = torch.full((tiles[1], n, c_out), math.nan)
    db = torch.full((tiles[0], n, c_in), math.nan)
    op = Weights(samples=n, outputs=c_out, inputs=c_in, w=w.data_ptr(), b=b.data_ptr())
    op.a, op.grad = None if a is None else a.data_ptr(), grad.data_ptr()
    op.dw, op.da, op.db = dw.data_ptr(), da.data_ptr(), db.data_ptr()
    host_kernels.run(scale_grad_kernel(dtype, k * k), math.prod(tiles), 256, op)
    near(dw, expected[0], 1e-5)
    near(db.sum(dim=0), expected[2], 1e-5)
    if has_a:
        near(da.sum(dim=0), expected[1], 1e-5)
    else:
        assert da.isnan().all()


@pytest.mark.parametrize("relative", [True, False])
def test_demodulation(host_kernels, numbers, sizes, k, relative):
    n, c_out, c_in = sizes
    w, s = numbers(c_out, c_in, k, k), numbers(n, c_in, seed=1)
    y, eps = torch.full((n, c_out), math.nan), 0.3
    op = Demodulation(samples=n, outputs=c_out, inputs=c_in, relative=relative, eps=eps)
    op.w, op.s, op.y = w.data_ptr(), s.data_ptr(), y.data_ptr()
    host_kernels.run(demodulation_kernel(k * k), c_out * -(-n // 8), 256, op)
    near(y, plain.demodulation(w.double(), s.double(), eps, relative), 1e-5)


def test_gradients_of_the_demodulation(host_kernels, numbers, sizes, k):
    n, c_out, c_in = sizes
    w, s = numbers(c_out, c_in, k, k), numbers(n, c_in, seed=1)
    a, grad = numbers(n, c_out, seed=2), numbers(n, c_out, seed=3)
    dw, ds = torch.full_like(w, math.nan), torch.full_like(s, math.nan)
    op = Demodulation(samples=n, outputs=c_out, inputs=c_in, w=w.data_ptr(), s=s.data_ptr())
    op.a, op.grad, op.dw, op.ds = (t.data_ptr() for t in (a, grad, dw, ds))
    host_kernels.run_over(demodulation_kernel(k * k, "dw"), c_out * c_in, op)
    host_kernels.run(demodulation_kernel(k * k, "ds"), -(-c_in // 32) * -(-n // 8), 256, op)
    expected = plain.demodulation_grad(*(t.double() for t in (grad, a, w, s)))
    near(dw, expected[0], 1e-5)
    near(ds, expected[1], 1e-5)
