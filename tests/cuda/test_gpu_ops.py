"""The compiled CUDA kernels on a GPU against plain PyTorch, through the public ops."""

import pytest
import torch
from op_comparison import assert_single_precision, error_of, results, share_beyond
from torch.autograd import gradcheck, gradgradcheck

from sg3flow.ops import bias_act, filtered_lrelu, upfirdn2d

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("card")]

HALVES = [torch.float16, torch.bfloat16]
GPU = torch.device("cuda", 0)


@pytest.fixture
def compare(layer, plain, numbers):
    """filtered_lrelu of a layer with kernels, without, and in float64: three lists of results."""

    def run(kind, size, dtype, planes=(2, 3), **shape):
        def op(x, b, fu, fd, **options):
            return filtered_lrelu(x, fu, fd, b, **options)

        x, fu, fd, b, options = layer(kind, size, dtype, GPU, planes)
        options = {"clamp": 1.1, **options, **shape, "fu": fu, "fd": fd}
        exact = plain(results, op, x.double(), b.double(), options, numbers)
        ours = results(op, x, b, options, numbers)
        theirs = plain(results, op, x, b, options, numbers)
        return ours, theirs, exact

    return run


@pytest.mark.parametrize("size", [(25, 31), (84, 53), (150, 151)])
@pytest.mark.parametrize("flip", [False, True])
def test_filtered_lrelu_in_single_precision(compare, layer_kind, size, flip):
    ours, _, exact = compare(layer_kind, size, torch.float32, flip_filter=flip)
    assert_single_precision(ours, exact)


def test_filtered_lrelu_of_any_kind(compare, any_kind):
    ours, _, exact = compare(any_kind, (35, 37), torch.float32)
    assert_single_precision(ours, exact)
    ours, _, exact = compare(any_kind, (35, 37), torch.float64)
    for found, expected in zip(ours, exact, strict=True):
        assert error_of(found, expected) <= 1e-13


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [(33, 31), (150, 132)])
def test_filtered_lrelu_in_half_precision(compare, any_kind, size, dtype):
    """To test both paths, run it again with SG3FLOW_TENSOR_CORES=0, read once per process."""
    eps = torch.finfo(dtype).eps
    ours, theirs, exact = compare(any_kind, size, dtype)
    for i in (0, 1, 3):  # y, dx, dg
        if any_kind == "identity":  # what rounds to the clamp counts as clamped
            assert share_beyond(ours[i], exact[i], 4 * eps) <= 2e-3
            continue
        assert error_of(ours[i], exact[i]) <= 2 * error_of(theirs[i], exact[i]) + eps / 4
    # Of db, a few sums, one sample beside 0 that falls on the other side makes out the error.
    sums = ours[1].double().sum(dim=(0, 2, 3))
    assert float((ours[2].double() - sums).abs().max()) <= 2 * eps * float(sums.abs().max())


def test_gradcheck(layer, any_kind):
    x, fu, fd, b, options = layer(any_kind, (27, 26), torch.float64, GPU, (1, 2))
    x, b = x.requires_grad_(), b.requires_grad_()

    def op(x, b):
        return filtered_lrelu(x, fu, fd, b, clamp=0.9, **options)

    assert gradcheck(op, (x, b), fast_mode=True)
    assert gradgradcheck(op, (x, b), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 4), {"padding": (2, 1, 2, 1)}),
        ((4, 4), {"up": 2, "padding": (2, 1, 2, 1), "gain": 4}),
        ((4, 4), {"down": 2, "padding": (1, 1, -2, 1)}),
        ((12,), {"up": 2, "padding": 5, "gain": 4}),
        ((12,), {"down": 2, "padding": (5, 5, 4, 6), "flip_filter": True}),
        ((3, 5), {"up": (2, 3), "down": (3, 1), "padding": (0, 4, -1, 7)}),
    ],
)
def test_upfirdn2d(plain, numbers, shape, options, dtype):
    x, f = numbers(3, 5, 33, 46, dtype=dtype, device=GPU), numbers(*shape, seed=5, device=GPU)

    def op(x, b, **options):
        return upfirdn2d(x + b[:, None, None], f, **options)

    b = numbers(5, seed=1, dtype=dtype, device=GPU)
    exact = plain(results, op, x.double(), b.double(), options, numbers)
    theirs = plain(results, op, x, b, options, numbers)
    for a, p, e in zip(results(op, x, b, options, numbers), theirs, exact, strict=True):
        assert error_of(a, e) <= 2 * error_of(p, e) + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("shape", [(3, 5, 16, 24), (3, 5, 7, 9), (6, 5)])
def test_bias_act(plain, numbers, shape, act, dtype):
    x = numbers(*shape, dtype=dtype, device=GPU)
    b = numbers(5, seed=1, dtype=dtype, device=GPU)
    options = {"act": act, "clamp": 0.7}
    exact = plain(results, bias_act, x, b, options, numbers)
    found = results(bias_act, x, b, options, numbers)
    for a, e in zip(found[:2] + found[3:], exact[:2] + exact[3:], strict=True):
        assert share_beyond(a, e, 2 * torch.finfo(dtype).eps) <= 1e-2


def test_views_and_channels_last(layer):
    x, fu, fd, b, options = layer("t", (37, 40), torch.float16, GPU, (2, 6))
    expected = filtered_lrelu(x, fu, fd, b, **options)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(filtered_lrelu(last, fu, fd, b, **options), expected)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(filtered_lrelu(turned, fu, fd, b, **options), expected)
    wide = torch.cat([x, x], dim=1)[:, 3:9]
    assert torch.equal(
        filtered_lrelu(wide, fu, fd, b, **options),
        filtered_lrelu(wide.contiguous(), fu, fd, b, **options),
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("offset", [1, 2, 3])
def test_tensors_may_begin_anywhere(layer, layer_kind, dtype, offset):
    """Only the order of sums depends on the alignment."""
    x, fu, fd, b, options = layer(layer_kind, (25, 38), dtype, GPU, (2, 3))
    expected = filtered_lrelu(x, fu, fd, b, **options)
    memory = x.new_zeros(x.numel() + offset)
    memory[offset:] = x.flatten()
    moved = memory[offset:].view(x.shape)
    found = filtered_lrelu(moved, fu, fd, b, **options)
    assert share_beyond(found, expected, 4 * torch.finfo(dtype).eps) == 0


@pytest.mark.parametrize("planes", [(0, 3), (2, 0)])
def test_empty(layer, planes):
    x, fu, fd, b, options = layer("t", (36, 36), torch.float16, GPU, planes)
    x = x.requires_grad_()
    y = filtered_lrelu(x, fu, fd, b, **options)
    y.sum().backward()
    assert y.numel() == 0 and x.grad.shape == x.shape
    assert upfirdn2d(x, fu, up=2, padding=6).numel() == 0
    assert bias_act(x, b, "lrelu").numel() == 0


def test_more_planes_than_a_grid_axis_holds(layer):
    x, fu, fd, b, options = layer("t", (16, 16), torch.float16, GPU, (70, 1000))
    y = filtered_lrelu(x, fu, fd, b, **options)
    assert torch.equal(y[-1:], filtered_lrelu(x[-1:].contiguous(), fu, fd, b, **options))
    assert torch.equal(upfirdn2d(x, fu, padding=6)[-1:], upfirdn2d(x[-1:], fu, padding=6))


def test_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info(GPU)[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    x = torch.randn(1, 1, 1024, 1024, device=GPU, dtype=torch.float16).repeat(1, 2200, 1, 1)
    assert x.numel() > 2**31
    f = torch.full((12,), 1 / 12, device=GPU)
    y = filtered_lrelu(x, f, f, up=2, down=2, padding=(11, 10, 11, 10))
    assert torch.equal(y[:, 0], y[:, -1])
    del y
    y = bias_act(x, act="lrelu")
    assert torch.equal(y[:, 0], y[:, -1])
    del y
    y = upfirdn2d(x, f[:4, None] * f[:4], padding=(2, 1, 2, 1))
    assert torch.equal(y[:, 0], y[:, -1])


def test_streams(layer):
    """Work is enqueued on the current stream, in order with its other work."""
    x, fu, fd, b, options = layer("t", (148, 148), torch.float16, GPU, (8, 64))
    expected = filtered_lrelu(x, fu, fd, b, **options)
    late = torch.zeros_like(x)
    torch.cuda.synchronize(GPU)
    stream = torch.cuda.Stream(GPU)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        y = filtered_lrelu(late, fu, fd, b, **options)
    stream.synchronize()
    assert torch.equal(y, expected)


def test_captured_in_a_graph(layer):
    """After a first use: kernels are not loaded during a capture."""
    x, fu, fd, b, options = layer("t", (52, 52), torch.float16, GPU, (2, 8))
    expected = filtered_lrelu(x, fu, fd, b, **options)
    graph, held = torch.cuda.CUDAGraph(), torch.zeros_like(x)
    with torch.cuda.graph(graph):
        y = filtered_lrelu(held, fu, fd, b, **options)
    held.copy_(x)
    graph.replay()
    assert torch.equal(y, expected)


def test_a_second_device(layer):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    x, fu, fd, b, options = layer("t", (52, 52), torch.float16, GPU)
    other = torch.device("cuda", 1)
    y = filtered_lrelu(x.to(other), fu.to(other), fd.to(other), b.to(other), **options)
    assert y.device == other
    assert torch.equal(y.to(GPU), filtered_lrelu(x, fu, fd, b, **options))
    with pytest.raises((RuntimeError, ValueError), match="cuda:1"):
        filtered_lrelu(x, fu.to(other), fd, b, **options)


@pytest.mark.parametrize("width", [151, 152])  # loaded by samples, by words
def test_repeats_are_equal_to_the_last_bit(layer, layer_kind, width):
    """A result that differs between runs means a race between threads."""
    x, fu, fd, b, options = layer(layer_kind, (150, width), torch.float16, GPU, (4, 16))
    x = x.requires_grad_()
    runs = []
    for _ in range(5):
        y = filtered_lrelu(x, fu, fd, b, clamp=0.9, **options)
        runs.append((y.detach(), *torch.autograd.grad(y.square().sum(), x)))
    for again in runs[1:]:
        assert all(torch.equal(a, e) for a, e in zip(again, runs[0], strict=True))
