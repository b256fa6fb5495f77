"""The compiled CPU ops: schemas, shapes, gradients, threads, torch.compile."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sg3flow.errors import ConfigError
from sg3flow.ops import backend, bias_act, filtered_lrelu, self_check, upfirdn2d

pytestmark = pytest.mark.usefixtures("library")

GEOMETRY = ((2, 2), (2, 2), (9, 8, 9, 8))
FULL = """
import sys, torch
from sg3flow.ops import bias_act, filtered_lrelu, modulated_conv2d, upfirdn2d


def run(threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    x, f, r = torch.randn(3, 20, 40, 37), torch.rand(12) / 6, torch.rand(12, 12) / 36
    g, h = torch.rand(24) / 12, torch.rand(24, 24) / 144
    found = []
    for up, first, down, second in (
        (2, f, 2, f),
        (2, f, 2, r),
        (2, f + f.flip(0), 2, f + f.flip(0)),
        (2, f, 2, r + r.flip(1)),
        (2, r, 2, f),
        (2, r, 4, g + g.flip(0)),
        (2, f, 4, h + h.flip(1)),
        (4, g, 2, r + r.flip(1)),
    ):
        v = x.clone().requires_grad_()
        y = filtered_lrelu(v, first, second, torch.ones(20), up=up, down=down, padding=9, clamp=0.9)
        y.square().sum().backward()
        found += [y.detach(), v.grad]
    wide = torch.randn(1, 2, 50, 300)
    found.append(filtered_lrelu(wide, f, f, up=4, down=2, padding=(-6, -9, -6, -9)))
    found.append(upfirdn2d(x, r, up=2, padding=7))
    found.append(bias_act(x, torch.ones(20), "lrelu", clamp=0.5))
    w, s = (torch.randn(shape).requires_grad_() for shape in ((24, 20, 3, 3), (3, 20)))
    y = modulated_conv2d(x, w, s, padding=2)
    y.square().sum().backward()
    found += [y.detach(), w.grad, s.grad]
    a, b = torch.randn(2, 70, 131), torch.randn(2, 131, 500)
    return [*found, torch.ops.sg3flow.matrix_product(a, b)]


results = [run(int(threads)) for threads in sys.argv[1].split(",")]
torch.save((torch.ops.sg3flow.cpu_instruction_set(), results), sys.argv[2])
"""


def filters():
    """Symmetric to the last bit, as the filters of the layers are."""
    taps = torch.hann_window(14, periodic=False)[1:-1]
    taps, cross = (taps + taps.flip(0)) / (2 * taps.sum()), torch.eye(12)
    return taps, torch.outer(taps, taps) + 0.01 * (cross + cross.flip(0))


@pytest.mark.medium
def test_opcheck(draw):
    f, full = filters()
    x, b = draw(2, 3, 10, 9).requires_grad_(), draw(3).requires_grad_()
    ops = torch.ops.sg3flow
    checks = [
        (ops.upfirdn2d, (x, f, (2, 1), (1, 2), (5, 6, 7, 3), False, 2.0)),
        (ops.upfirdn2d, (x, full, (1, 1), (2, 2), (5, 6, 7, 3), True, 1.0)),
        (ops.bias_act, (x, b, 0.2, 1.4, 0.8)),
        (ops.bias_act, (x, None, 1.0, 1.0, -1.0)),
        (ops.bias_act_grad, (x, x.detach(), 0.2, 1.4, 0.8)),
        (ops.filtered_lrelu, (x, f, full, b, *GEOMETRY, False, 1.4, 0.2, 0.8, True)),
        (
            ops.conv3x3,
            (
                x,
                draw(4, 3, 3, 3).requires_grad_(),
                draw(2, 3).requires_grad_(),
                draw(2, 4).exp().requires_grad_(),
                1,
            ),
        ),
        (
            ops.conv3x3_weight,
            (
                x,
                draw(2, 4, 10, 9).requires_grad_(),
                draw(2, 3).requires_grad_(),
                draw(2, 4).exp().requires_grad_(),
                1,
            ),
        ),
        (ops.plane_products, (x, draw(2, 3, 10, 9).requires_grad_())),
        (ops.matrix_product, (draw(2, 5, 7).requires_grad_(), draw(2, 7, 9).requires_grad_())),
    ]
    _, flags = ops.filtered_lrelu(x, f, full, b, *GEOMETRY, False, 1.4, 0.2, 0.8, True)
    flagged = (draw(2, 3, 10, 9).requires_grad_(), flags, f, f, *GEOMETRY, (0, 0), 24, False)
    checks.append((ops.filtered_lrelu_flagged, (*flagged, 1.0, 0.2)))
    for op, arguments in checks:
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("which", [0, 1])
def test_second_order_is_that_of_double_precision(draw, which):
    f, down = filters()[0], filters()[which]
    x, b, v, t = draw(2, 3, 15, 13), draw(3), draw(2, 3, 13, 11), draw(2, 3, 15, 13)
    results = []
    for dtype in (torch.float64, torch.float32):
        a, c, w = (value.to(dtype).requires_grad_() for value in (x, b, v))
        y = filtered_lrelu(a, f, down, c, up=2, down=2, padding=(9, 8, 9, 8), clamp=0.8)
        y = bias_act(upfirdn2d(y, f, padding=(6, 5, 6, 5)), c, "lrelu", clamp=2.0)
        first = torch.autograd.grad(y, (a, c), w.to(dtype), create_graph=True)
        second = torch.autograd.grad((first[0] * t.to(dtype)).sum(), w)
        results.append([y, *first, *second])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("down", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("up", "width"), [(1, 37), (2, 50), (4, 200)])
def test_flags_serve_every_factor(draw, monkeypatch, up, down, width):
    """Rows are stored by columns modulo `down`; wide ones in stripes, narrow ones side by side."""
    f = filters()[0]
    x, b = draw(2, 7, 20, width), draw(7)
    results = []
    for ops in ("torch", "cpu"):
        monkeypatch.setenv("SG3FLOW_OPS", ops)
        a, c = x.clone().requires_grad_(), b.clone().requires_grad_()
        y = filtered_lrelu(a, f, f, c, up=up, down=down, padding=(13, 10, 9, 12), clamp=0.7)
        gradients = torch.autograd.grad(y, (a, c), y.detach().cos())
        results.append([y.detach(), *gradients])
    for expected, found in zip(*results, strict=True):
        limit = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, atol=limit, rtol=0)


def test_convolution_has_gradients_of_two_orders(draw):
    x, w, before, after = draw(2, 3, 9, 8), draw(5, 3, 3, 3), draw(2, 3), draw(2, 5).exp()

    def plain(x, w, before, after):
        x = x * before[:, :, None, None]
        return torch.nn.functional.conv2d(x, w, padding=2) * after[:, :, None, None]

    def kernel(*inputs):
        return torch.ops.sg3flow.conv3x3(*inputs, 2)

    results = []
    for op, dtype in ((plain, torch.float64), (kernel, torch.float32)):
        inputs = [value.to(dtype).requires_grad_() for value in (x, w, before, after)]
        y = op(*inputs)
        cotangent = torch.arange(y.numel(), dtype=dtype).sin().reshape(y.shape).requires_grad_()
        first = torch.autograd.grad(y, inputs, cotangent, create_graph=True)
        second = torch.autograd.grad(sum(g.sin().sum() for g in first), [*inputs, cotangent])
        results.append([y, *first, *second])
    for expected, found in zip(*results, strict=True):
        error = (found - expected).abs().max() / expected.abs().max()
        assert float(error.detach()) < 1e-4


@given(
    channels=st.tuples(st.integers(1, 35), st.integers(1, 35)),
    samples=st.integers(1, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    padding=st.integers(0, 2),
)
def test_a_convolution_is_that_of_double_precision(channels, samples, size, padding):
    """Complete and partial blocks of channels and tiles, of several samples at once."""
    height, width = (max(side, 3 - 2 * padding) for side in size)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(samples, channels[0], height, width, generator=draw)
    w = torch.randn(channels[1], channels[0], 3, 3, generator=draw)
    found = torch.ops.sg3flow.conv3x3(x, w, None, None, padding)
    expected = torch.nn.functional.conv2d(x.double(), w.double(), padding=padding)
    limit = 1e-5 * (9 * channels[0]) ** 0.5  # of what a result of so many products is about
    torch.testing.assert_close(found.double(), expected, atol=limit, rtol=0)


@pytest.mark.parametrize(
    ("shape", "outputs", "padding"),
    [((3, 40, 70, 5), 20, 0), ((1, 16, 3, 130), 33, 2), ((2, 1, 1, 1), 1, 1), ((0, 3, 8, 8), 2, 1)],
)
def test_weights_have_the_gradient_of_the_plain_convolution(draw, shape, outputs, padding):
    x, w = draw(*shape), draw(outputs, shape[1], 3, 3)
    before, after = draw(shape[0], shape[1]), draw(shape[0], outputs).exp()
    grad = torch.ops.sg3flow.conv3x3(x, w, before, after, padding)
    found = torch.ops.sg3flow.conv3x3_weight(x, grad, before, after, padding)
    scaled, pulled = x * before[:, :, None, None], grad * after[:, :, None, None]
    expected = torch.nn.grad.conv2d_weight(scaled.double(), w.shape, pulled.double(), 1, padding)
    limit = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, atol=limit, rtol=0)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(1, 1, 1), (32, 8, 192), (33, 9, 193), (70, 131, 500), (0, 3, 4), (3, 0, 4), (256, 300, 2116)],
)
def test_a_matrix_product_is_that_of_double_precision(draw, rows, inner, columns):
    a, b = draw(2, rows, inner).requires_grad_(), draw(2, inner, columns).requires_grad_()
    y = torch.ops.sg3flow.matrix_product(a, b)
    found = [y, *torch.autograd.grad(y, (a, b), y.detach().cos())]
    a, b = (m.detach().double().requires_grad_() for m in (a, b))
    expected = [a @ b, *torch.autograd.grad(a @ b, (a, b), y.detach().double().cos())]
    for one, other in zip(found, expected, strict=True):
        limit = 1e-5 * float(other.detach().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one.double(), other, atol=limit, rtol=0)


def test_a_matrix_product_has_gradients_of_two_orders(draw):
    a, b = (draw(*s).double().requires_grad_() for s in ((2, 6, 9), (2, 9, 7)))
    results = []
    for op in (torch.matmul, lambda a, b: torch.ops.sg3flow.matrix_product(a.float(), b.float())):
        first = torch.autograd.grad(op(a, b).sin().sum(), (a, b), create_graph=True)
        second = torch.autograd.grad(sum(g.cos().sum() for g in first), (a, b))
        results.append([*first, *second])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_overflowed_before_is_forgotten(draw):
    """The next strip reuses the memory of a strip."""
    a, b = draw(1, 8, 8), draw(1, 8, 1000)
    broken = b.clone()
    broken[:, :, :192] = float("inf")
    found = torch.ops.sg3flow.matrix_product(a, broken)
    assert not found[:, :, :192].isfinite().any()
    assert torch.equal(found[:, :, 192:], torch.ops.sg3flow.matrix_product(a, b)[:, :, 192:])


def test_inference_mode_keeps_no_flags_and_gives_the_same(draw):
    f, _ = filters()
    x = draw(2, 3, 15, 13)
    expected = filtered_lrelu(x.clone().requires_grad_(), f, f, up=2, down=2, padding=9)
    with torch.inference_mode():
        found = filtered_lrelu(x, f, f, up=2, down=2, padding=9)
    assert torch.equal(found, expected)


def test_a_batch_is_its_samples_bit_for_bit(draw):
    f, full = filters()
    x, w = draw(5, 20, 36, 36), draw(24, 20, 3, 3)
    taps = draw(24, 20)
    for op in (
        lambda x: filtered_lrelu(x, f, full, up=2, down=2, padding=9, clamp=1.0),
        lambda x: upfirdn2d(x, f, down=2, padding=4),
        lambda x: bias_act(x, torch.ones(20), "lrelu"),
        lambda x: torch.ops.sg3flow.conv3x3(x, w, None, None, 1),
        lambda x: torch.ops.sg3flow.matrix_product(taps.expand(len(x), 24, 20), x.flatten(2)),
    ):
        assert torch.equal(op(x), torch.cat([op(one[None]) for one in x]))


@pytest.mark.parametrize(
    "shape", [(1, 70, 20, 20), (9, 40, 21, 9), (2, 33, 90, 90), (5, 16, 100, 100)]
)
def test_a_convolution_is_right_and_the_same_with_any_number_of_threads(draw, shape):
    """The number of threads decides how rows of tiles and groups of channels are split.

    The gradients of the last two shapes are summed in several parts.
    """
    x, w = draw(*shape), draw(75, shape[1], 3, 3)
    grad = draw(shape[0], 75, *shape[2:])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 6, 16, 40):
            torch.set_num_threads(threads)
            y = torch.ops.sg3flow.conv3x3(x, w, None, None, 1)
            results.append((y, torch.ops.sg3flow.conv3x3_weight(x, grad, None, None, 1)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], result, strict=True))
    x, w, grad = x.double(), w.double(), grad.double()
    expected = (
        torch.nn.functional.conv2d(x, w, padding=1),
        torch.nn.grad.conv2d_weight(x, w.shape, grad, 1, 1),
    )
    for one, true in zip(results[0], expected, strict=True):
        limit = 1e-5 * float(true.abs().max())
        torch.testing.assert_close(one.double(), true, atol=limit, rtol=0)


@pytest.mark.medium
def test_numbers_do_not_depend_on_threads_and_hardly_on_the_instruction_set(tmp_path):
    runs = [("1,2,7", "avx512"), ("1", "avx2"), ("1", "default")]
    files = [tmp_path / f"{threads}-{isa}" for threads, isa in runs]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FULL, threads, str(file)],
            env={**os.environ, "ATEN_CPU_CAPABILITY": isa, "SG3FLOW_OPS": "cpu"},
        )
        for (threads, isa), file in zip(runs, files, strict=True)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * len(runs)
    (_, (one_thread, *more_threads)), (_, (avx2,)), (name, (portable,)) = map(torch.load, files)
    assert name == "portable" and len(more_threads) == 2
    for more in more_threads:
        assert all(torch.equal(one, same) for one, same in zip(one_thread, more, strict=True))
    for other in (avx2, portable):
        for one, same in zip(one_thread, other, strict=True):
            limit = 1e-5 * float(one.abs().max())
            different = (one - same).abs() > limit
            # beside the kink of the nonlinearity or the clamp a gradient falls on either side
            assert float(different.float().mean()) < 1e-3


@pytest.mark.parametrize("flushes", [True, False])
def test_threads_treat_denormals_as_the_caller_does(flushes):
    torch.set_num_threads(2)
    x = torch.full((8, 64, 32, 32), 1e-39)
    torch.set_flush_denormal(flushes)
    try:
        y = bias_act(x, torch.zeros(64), "lrelu", gain=1.0)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(1)
    assert bool((y == 0).all()) is flushes and bool((y == 0).any()) is flushes


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.medium
def test_a_layer_compiles_as_one_graph(draw):
    f, _ = filters()

    def layer(x, b):
        y = filtered_lrelu(x, f, f, b, up=2, down=2, padding=(9, 8, 9, 8), clamp=256.0)
        return bias_act(upfirdn2d(y, f, padding=(6, 5, 6, 5)), b, "lrelu")

    x, b = draw(1, 3, 12, 12), draw(3)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, b), layer(x, b))


def test_wrong_tensors_are_refused(draw):
    x, f = draw(1, 3, 8, 8), filters()[0]
    ops = torch.ops.sg3flow
    one = ((1, 1), (1, 1), (0, 0, 0, 0), False, 1.0)
    with pytest.raises(RuntimeError, match="contiguous float32"):
        ops.upfirdn2d(x.transpose(2, 3), f, *one)
    with pytest.raises(RuntimeError, match="smaller than the filter"):
        ops.upfirdn2d(x, f, *one)
    with pytest.raises(RuntimeError, match="bias"):
        ops.bias_act(x, draw(4), 0.2, 1.0, -1.0)
    with pytest.raises(RuntimeError, match="padding of 0 to 2"):
        ops.conv3x3(x, draw(4, 2, 3, 3), None, None, 1)
    with pytest.raises(RuntimeError, match="a gradient of the convolution's size"):
        ops.conv3x3_weight(x, draw(1, 4, 8, 8), None, None, 2)
    with pytest.raises(RuntimeError, match="contiguous float32 \\[N, K, P\\]"):
        ops.matrix_product(draw(1, 3, 4), draw(1, 5, 6))
    with pytest.raises(RuntimeError, match="two images of one shape"):
        ops.plane_products(x, draw(1, 3, 8, 7))
    with pytest.raises(RuntimeError, match="flags"):
        flags = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
        ops.filtered_lrelu_flagged(x, flags, f, f, *GEOMETRY, (0, 0), 26, False, 1.0, 0.2)


def test_kernels_that_compute_something_else_are_not_used(monkeypatch):
    monkeypatch.setattr(self_check, "TOLERANCES", {torch.float32: 0.0})
    with pytest.raises(
        ConfigError, match=r"the cpu kernels of filtered_lrelu-layers .* differ from"
    ):
        backend.check_kernels("cpu")
    monkeypatch.setattr(self_check, "largest_error", lambda *_: float("nan"))
    with pytest.raises(ConfigError, match="differ from plain PyTorch by nan"):
        backend.check_kernels("cpu")
