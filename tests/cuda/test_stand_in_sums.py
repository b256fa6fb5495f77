"""Passes that kernels make beside their own work, on stand-ins for a GPU: activation with a filter
or a sum, sums of gradients, and magnitudes.
"""

import pytest
import stand_in
import torch
from op_comparison import error_of

from sg3flow.networks import StyleGAN3Generator, stylegan3
from sg3flow.networks.layers import mean_square
from sg3flow.ops import bias_act, filtered_lrelu, setup_filter, upfirdn2d
from sg3flow.ops.act_filter import filtered_act
from sg3flow.ops.filtered_lrelu import filtered_lrelu_squares

pytestmark = pytest.mark.medium

GPU = torch.device("cuda", 0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GAIN, CLAMP = 1.4, 1.1


@pytest.fixture(scope="module")
def gpu(whole_library, tmp_path_factory):
    library = stand_in.StandIn(whole_library)
    with stand_in.installed(library, tmp_path_factory.mktemp("kernels"), 90) as found:
        yield found


def kernels(gpu, since):
    return [each.kernel.split("<")[0].removeprefix("sg3::") for each in gpu.launches()[since:]]


def separate(x, b, clamp, f, padding, base):
    y = bias_act(x, b, act="lrelu", gain=GAIN, clamp=clamp)
    y = y if f is None else upfirdn2d(y, f, padding=padding)
    return y if base is None else y + base


def joined(x, b, clamp, f, padding, base):
    return filtered_act(x, b, GAIN, clamp, f, padding, base)


def twice(op, numbers, x, b, clamp, f, padding, base):
    """Results, gradients, and what differentiates those: each kernel with its own rounding."""
    x, b = x.to(GPU).requires_grad_(), None if b is None else b.to(GPU).requires_grad_()
    f, base = (None if t is None else t.to(GPU) for t in (f, base))
    y = op(x, b, clamp, f, padding, base)
    g = numbers(*y.shape, seed=7, dtype=y.dtype).to(GPU).requires_grad_()
    dx, *db = torch.autograd.grad(y, [x] if b is None else [x, b], g, create_graph=True)
    (dg,) = torch.autograd.grad(dx, g, numbers(*dx.shape, seed=8, dtype=dx.dtype).to(GPU))
    return [t.detach().cpu() for t in (y, dx, dg, *db)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "padding"),
    [((37, 41), (2, 2, 2, 2)), ((64, 32), (0, 3, 1, 0)), ((5, 2), (3, 1, 2, 3)), ((33, 70), None)],
)
def test_one_op_has_the_bits_of_several(gpu, numbers, size, padding, dtype):
    """All but the sums of the gradient of the bias, which have another order."""
    x, b = numbers(2, 3, *size, dtype=dtype), numbers(3, seed=1, dtype=dtype)
    f = None if padding is None else numbers(4, 4, seed=2)
    base = numbers(*x.shape, seed=3, dtype=dtype) if padding is None else None
    for bias, clamp in ((b, CLAMP), (None, None)):
        given = (x, bias, clamp, f, padding or (0,) * 4, base)
        twice(joined, numbers, *given)  # the self-check runs now
        before = len(gpu.launches())
        found = twice(joined, numbers, *given)
        names = kernels(gpu, before)
        last = "act_filter_grad_kernel" if f is None else "act_filter_flagged_kernel"
        assert names == ["act_filter_kernel", "act_filter_grad_kernel", last]
        expected = twice(separate, numbers, *given)
        for one, other in zip(found[:3], expected[:3], strict=True):
            assert torch.equal(one, other)
        if bias is not None:
            exact = found[1].double().sum(dim=(0, 2, 3))
            assert error_of(found[3], exact) <= 4 * torch.finfo(dtype).eps


def test_memory_that_is_not_aligned_and_empty_tensors(gpu, numbers):
    memory = numbers(2 * 3 * 8 * 8 + 1, dtype=torch.float16).to(GPU)
    x = memory[1:].view(2, 3, 8, 8)
    found = filtered_act(x, None, base=x).cpu()
    assert torch.equal(found, filtered_act(x.clone(), None, base=x.clone()).cpu())
    none = torch.zeros(0, 3, 8, 8, device=GPU, requires_grad=True)
    b = torch.zeros(3, device=GPU, requires_grad=True)
    y = filtered_act(none, b, f=setup_filter([1, 3, 3, 1]).to(GPU), padding=(2, 1, 2, 1))
    dx, db = torch.autograd.grad(y.sum(), (none, b))
    assert y.shape == dx.shape == (0, 3, 8, 8) and db.cpu().tolist() == [0, 0, 0]


LAYERS = [
    *[("t", dtype) for dtype in (torch.float32, torch.float16)],
    *[(kind, torch.float16) for kind in ("t-up4", "r", "r-up4", "odd-radial")],
    *[("r", torch.float32), ("down4", torch.float32), ("up3", torch.float16)],
]


@pytest.mark.parametrize(("kind", "dtype"), LAYERS)
def test_sums_of_a_layer(gpu, layer, numbers, kind, dtype):
    """Of squares by the forward pass, and of the gradient, by tiles and after generic kernels."""
    x, fu, fd, b, options = layer(kind, (67, 61), dtype)
    x, b = x.to(GPU).requires_grad_(), b.to(GPU).requires_grad_()
    options |= {"fu": None if fu is None else fu.to(GPU), "fd": fd.to(GPU), "b": b}
    for given in (x, x.detach()):  # with flags and without
        y, squares = filtered_lrelu_squares(given, clamp=CLAMP, **options)
        exact = y.detach().cpu().double().square().sum()
        assert squares.dtype == torch.float32 and not squares.requires_grad
        assert abs(float(squares.cpu()) / float(exact) - 1) <= torch.finfo(dtype).eps
    y, _ = filtered_lrelu_squares(x, clamp=CLAMP, **options)
    assert torch.equal(y.detach().cpu(), filtered_lrelu(x, clamp=CLAMP, **options).detach().cpu())
    g = numbers(*y.shape, seed=7, dtype=dtype).to(GPU).requires_grad_()
    dx, db = torch.autograd.grad(y, (x, b), g, create_graph=True)
    exact = dx.detach().cpu().double().sum(dim=(0, 2, 3))
    assert error_of(db.detach().cpu(), exact) <= 4 * torch.finfo(dtype).eps
    # the gradient of a sum is that of each of its elements
    weights = numbers(len(b), seed=9, dtype=dtype).to(GPU)
    (found,) = torch.autograd.grad((db * weights).sum(), g, retain_graph=True)
    spread = weights[:, None, None].expand(dx.shape).contiguous()
    (wanted,) = torch.autograd.grad(dx, g, spread, retain_graph=True)
    assert torch.equal(found.cpu(), wanted.cpu())
    both = (dx * spread).sum() + (db * weights).sum()
    (found,) = torch.autograd.grad(both, g)
    assert error_of(found.cpu(), 2 * wanted.cpu().double()) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("cfg", ["t", "r"])
def test_magnitudes_come_from_the_layers_before(gpu, plain, numbers, monkeypatch, cfg):
    torch.manual_seed(0)
    options = {"conv_kernel": 1, "use_radial_filters": True} if cfg == "r" else {}
    G = StyleGAN3Generator(
        8, 0, 8, 32, 3, channel_base=256, channel_max=16, num_layers=6, **options
    )
    ws = numbers(2, G.num_ws, 8)
    state = {name: tensor.detach().to(GPU) for name, tensor in G.synthesis.state_dict().items()}
    passes = []
    monkeypatch.setattr(
        stylegan3, "mean_square", lambda *given: passes.append(1) or mean_square(*given)
    )
    given = {"force_fp32": True, "update_emas": True}
    y = torch.func.functional_call(G.synthesis, state, (ws.to(GPU),), given)
    assert len(passes) == 1  # of the Fourier features
    with torch.no_grad():
        expected = plain(G.synthesis, ws, **given)
    assert error_of(y.cpu(), expected) <= 1e-4
    emas = [name for name in state if name.endswith("magnitude_ema")]
    assert len(emas) == 7
    for name in emas:
        found, wanted = float(state[name].cpu()), float(G.synthesis.get_buffer(name))
        assert wanted != 1 and found == pytest.approx(wanted, rel=1e-6)
