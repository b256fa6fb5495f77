"""The whole path of the CUDA ops on stand-ins for a GPU, against plain PyTorch.

The public ops get tensors on "cuda": they choose, compile (by a stand-in for NVRTC), check, load
and launch the kernels as on a GPU. The driver is a stand-in, too: it checks each launch and runs
the kernel's own source on the host. So all but the GPU's arithmetic and its races is tested.
"""

import math
import os
import threading

import pytest
import stand_in
import stand_in_tensors
import torch
from op_comparison import assert_single_precision, error_of, results, share_beyond

from sg3flow.errors import ConfigError
from sg3flow.kernels.nvrtc import find_nvrtc
from sg3flow.ops import backend_name, bias_act, filtered_lrelu, upfirdn2d

pytestmark = pytest.mark.medium

GPU = torch.device("cuda", 0)
KERNELS = os.environ["SG3FLOW_KERNELS"]  # of all tests


@pytest.fixture(scope="module")
def gpu(whole_library, tmp_path_factory):
    library = stand_in.StandIn(whole_library)
    with stand_in.installed(library, tmp_path_factory.mktemp("kernels"), 90, 75) as found:
        yield found


@pytest.fixture
def compare(gpu, layer, plain, numbers):
    """Results and gradients of a layer: with kernels, in plain PyTorch, and in float64."""

    def run(kind, size, dtype, device=GPU, **shape):
        def op(x, b, fu, fd, **options):
            return filtered_lrelu(x, fu, fd, b, **options)

        x, fu, fd, b, options = layer(kind, size, dtype)
        options = {"clamp": 1.1, "fu": fu, "fd": fd, **options, **shape}
        exact = plain(results, op, x.double(), b.double(), options, numbers)
        theirs = plain(results, op, x, b, options, numbers)
        on_gpu = options | {"fu": moved(fu, device), "fd": moved(fd, device)}
        ours = results(op, x.to(device), b.to(device), on_gpu, numbers)
        return [each.cpu() for each in ours], theirs, exact

    return run


def moved(tensor, device):
    return None if tensor is None else tensor.to(device)


def kernels(gpu, since=0):
    return {launch.kernel.split("<")[0].removeprefix("sg3::") for launch in gpu.launches()[since:]}


def test_the_backend_is_cuda(gpu):
    assert backend_name(GPU) == "cuda"


@pytest.mark.parametrize("flip", [False, True])
def test_filtered_lrelu_in_single_precision(compare, gpu, any_kind, flip):
    before = len(gpu.launches())
    ours, _, exact = compare(any_kind, (35, 37), torch.float32, flip_filter=flip)
    assert_single_precision(ours, exact)
    assert kernels(gpu, before)


def test_filtered_lrelu_in_half_precision(compare, any_kind):
    eps = torch.finfo(torch.float16).eps
    ours, theirs, exact = compare(any_kind, (33, 32), torch.float16)
    for i in (0, 1, 3):  # y, dx, dg
        if any_kind == "identity":  # what rounds to the clamp counts as clamped
            assert share_beyond(ours[i], exact[i], 4 * eps) <= 2e-3
            continue
        assert error_of(ours[i], exact[i]) <= 2 * error_of(theirs[i], exact[i]) + eps / 4


def test_half_precision_without_tensor_cores(compare, gpu, separable_kind):
    """As on a GPU of compute capability 7.5: the second device is one."""
    eps, before = torch.finfo(torch.float16).eps, len(gpu.launches())
    device = torch.device("cuda", 1)
    ours, theirs, exact = compare(separable_kind, (33, 31), torch.float16, device)
    for i in (0, 1, 3):
        assert error_of(ours[i], exact[i]) <= 2 * error_of(theirs[i], exact[i]) + eps / 4
    assert "band_kernel" not in kernels(gpu, before)
    tiles = [each for each in gpu.launches()[before:] if "tile_kernel" in each.kernel]
    assert {each.device for each in tiles} == {1}


@pytest.mark.parametrize("kind", ["down4", "up3", "identity"])
def test_bfloat16(compare, kind):
    ours, theirs, exact = compare(kind, (35, 37), torch.bfloat16)
    eps = torch.finfo(torch.bfloat16).eps
    for i in (0, 1, 3):
        assert error_of(ours[i], exact[i]) <= 2 * error_of(theirs[i], exact[i]) + eps


UPFIRDN = [
    ((4, 4), {"padding": (2, 1, 2, 1)}),
    ((4, 4), {"up": 2, "padding": (2, 1, 2, 1), "gain": 4}),
    ((4, 4), {"down": 2, "padding": (1, 1, -2, 1)}),
    ((12,), {"up": 2, "padding": 5, "gain": 4}),
    ((12,), {"down": 2, "padding": (5, 5, 4, 6), "flip_filter": True}),
    ((3, 5), {"up": (2, 3), "down": (3, 1), "padding": (0, 4, -1, 7)}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "options"), UPFIRDN)
def test_upfirdn2d(gpu, plain, numbers, shape, options, dtype):
    x, f, b = numbers(2, 3, 23, 26, dtype=dtype), numbers(*shape, seed=5), numbers(3, dtype=dtype)

    def op(x, b, f, **options):
        return upfirdn2d(x + b[:, None, None], f, **options)

    options = {"f": f, **options}
    exact = plain(results, op, x.double(), b.double(), options, numbers)
    theirs = plain(results, op, x, b, options, numbers)
    ours = results(op, x.to(GPU), b.to(GPU), options | {"f": f.to(GPU)}, numbers)
    for a, p, e in zip(ours, theirs, exact, strict=True):
        assert error_of(a.cpu(), e) <= 2 * error_of(p, e) + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act", ["linear", "lrelu"])
@pytest.mark.parametrize("shape", [(3, 5, 8, 24), (3, 5, 7, 9), (6, 5)])
def test_bias_act(gpu, plain, numbers, shape, act, dtype):
    x, b = numbers(*shape, dtype=dtype), numbers(5, seed=1, dtype=dtype)
    options, before = {"act": act, "clamp": 0.7}, len(gpu.launches())
    exact = plain(results, bias_act, x.double(), b.double(), options, numbers)
    found = results(bias_act, x.to(GPU), b.to(GPU), options, numbers)
    for i in (0, 1, 3):
        assert share_beyond(found[i].cpu(), exact[i], 2 * torch.finfo(dtype).eps) <= 1e-2
    wide = math.prod(shape[2:]) * dtype.itemsize % 16 == 0
    widest = {4: ", 4,", 2: ", 8,"}[dtype.itemsize].replace(" ", "")
    assert any(widest in launch.kernel for launch in gpu.launches()[before:]) == wide


def test_views_and_channels_last(gpu, layer):
    x, fu, fd, b, options = layer("t", (27, 30), torch.float16, planes=(2, 6))
    x, fu, fd, b = (each.to(GPU) for each in (x, fu, fd, b))
    expected = filtered_lrelu(x, fu, fd, b, **options).cpu()
    for same in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([x, x], dim=1)[:, 6:],
    ):
        assert torch.equal(filtered_lrelu(same, fu, fd, b, **options).cpu(), expected)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_tensors_may_begin_anywhere(gpu, layer, separable_kind, offset):
    """Only the order of sums depends on the alignment."""
    x, fu, fd, b, options = layer(separable_kind, (25, 38), torch.float16)
    x, fu, fd, b = (each.to(GPU) for each in (x, fu, fd, b))
    memory = torch.zeros(x.numel() + offset, device=GPU, dtype=torch.float16)
    memory[offset:] = x.flatten()
    moved_x = memory[offset:].view(x.shape)
    assert moved_x.data_ptr() % 16 == 2 * offset or moved_x.data_ptr() % 8 == 2 * offset
    found, expected = (filtered_lrelu(t, fu, fd, b, **options).cpu() for t in (moved_x, x))
    assert share_beyond(found, expected, 4 * torch.finfo(torch.float16).eps) == 0
    found, expected = (bias_act(t, b, "lrelu").cpu() for t in (moved_x, x))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("planes", [(0, 3), (2, 0)])
def test_empty(gpu, layer, planes):
    x, fu, fd, b, options = layer("t", (36, 36), torch.float16, planes=planes)
    x, fu, fd, b = (each.to(GPU) for each in (x, fu, fd, b))
    x = x.requires_grad_()
    y = filtered_lrelu(x, fu, fd, b, **options)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.numel() == 0 and dx.shape == x.shape
    assert upfirdn2d(x, fu, up=2, padding=6).numel() == 0
    assert bias_act(x, b, "lrelu").numel() == 0


def test_a_thread_without_a_context_gets_the_primary_one(gpu, layer):
    """As the threads of autograd may be; torch's guard sets no context for the current device."""
    x = torch.ones(2, 3, 8, 8, device=GPU)
    expected, found = bias_act(x, act="lrelu").cpu(), []

    def run():
        assert gpu.current_device() == -1
        with stand_in_tensors.StandInMode():
            found.append(bias_act(x, act="lrelu").cpu())
        assert gpu.current_device() == 0

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert torch.equal(found[0], expected)


def test_two_devices_do_not_mix(gpu, layer):
    x, fu, fd, b, options = layer("t", (26, 26), torch.float16)
    x, fu, fd, b = (each.to(GPU) for each in (x, fu, fd, b))
    with pytest.raises((RuntimeError, ValueError), match="cuda:1"):
        filtered_lrelu(x, fu.to("cuda:1"), fd, b, **options)


def test_cubins_of_nvrtc(gpu, plain, layer, monkeypatch):
    """The lowered names, limits and parameters of real machine code, found where it is launched."""
    monkeypatch.delenv("SG3FLOW_NVRTC")
    monkeypatch.setenv("SG3FLOW_KERNELS", KERNELS)
    try:
        find_nvrtc()
    except ConfigError as error:
        pytest.skip(str(error))
    x, fu, fd, b, options = layer("t", (27, 30), torch.float16)
    expected = plain(filtered_lrelu, x, fu, fd, b, **options)
    before = len(gpu.launches())
    stand_in.forget()
    try:
        x, fu, fd, b = (each.to(GPU) for each in (x, fu, fd, b))
        found = filtered_lrelu(x, fu, fd, b, **options).cpu()
    finally:
        stand_in.forget()
    assert error_of(found, expected) <= 2e-3
    launched = {launch.kernel for launch in gpu.launches()[before:]}
    assert all(name.startswith("_ZN3sg3") for name in launched) and len(launched) == 8
