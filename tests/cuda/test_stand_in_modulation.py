"""Modulated convolutions and branches on stand-ins for a GPU, against plain PyTorch in float64."""

import pytest
import stand_in
import torch
from op_comparison import error_of, path_lengths

from sg3flow.ops import modulated_conv2d, setup_filter, upfirdn2d
from sg3flow.ops.downsample_branch import downsample_branch

pytestmark = pytest.mark.medium

GPU = torch.device("cuda", 0)
HALVES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def gpu(whole_library, tmp_path_factory):
    library = stand_in.StandIn(whole_library)
    with stand_in.installed(library, tmp_path_factory.mktemp("kernels"), 90) as found:
        yield found


def kernels(gpu, since):
    return [each.kernel.split("<")[0].removeprefix("sg3::") for each in gpu.launches()[since:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("normalize", ["rms", "none"])
def test_modulated_convolutions(gpu, plain, numbers, k, dtype, normalize):
    x, w, s = numbers(3, 10, 6, 7), numbers(12, 10, k, k, seed=1), 1 + numbers(3, 10, seed=2) / 4
    gain, before = numbers(1, seed=3).abs()[0], len(gpu.launches())

    def op(x, w, s, gain):
        padding = {"padding": k - 1, "normalize": normalize, "input_gain": gain}
        return modulated_conv2d(x.to(dtype) if dtype in HALVES else x, w, s, **padding)

    def exact_op(x, w, s):
        padding = {"padding": k - 1, "normalize": normalize, "input_gain": gain.double()}
        return modulated_conv2d(x, w, s, per_sample=True, **padding)

    exact = plain(path_lengths, exact_op, x.double(), w.double(), s.double())
    on_gpu = [each.to(GPU) for each in (x, w, s)]
    ours = path_lengths(lambda *given: op(*given, gain.to(GPU)), *on_gpu)
    limit = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for found, expected in zip(ours, exact, strict=True):
        assert error_of(found.cpu(), expected) <= limit
    names = set(kernels(gpu, before))
    assert {"scale_kernel", "scale_grad_kernel", "demodulation_kernel"} <= names


def test_a_demodulation_is_differentiated_once_by_its_kernels(gpu, plain, numbers):
    x, w, s = numbers(2, 40, 5, 5), numbers(35, 40, 3, 3, seed=1), numbers(2, 40, seed=2)

    def gradients(x, w, s):
        leaves = [each.clone().requires_grad_() for each in (w, s)]
        y = modulated_conv2d(x, *leaves, padding=1, per_sample=True, normalize="rms")
        return torch.autograd.grad(y.square().sum(), leaves)

    exact, before = plain(gradients, x.double(), w.double(), s.double()), len(gpu.launches())
    for found, wanted in zip(gradients(*(t.to(GPU) for t in (x, w, s))), exact, strict=True):
        assert error_of(found.cpu(), wanted) <= 1e-5
    assert {"demodulation_dw_kernel", "demodulation_ds_kernel"} <= set(kernels(gpu, before))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_two_gradients_of_an_image_meet_in_one_launch(gpu, numbers, dtype):
    x, f = numbers(2, 3, 10, 14, dtype=dtype), setup_filter([1, 3, 3, 1])
    before = len(gpu.launches())
    leaf = x.to(GPU).requires_grad_()
    y, small = downsample_branch(leaf, f.to(GPU))
    (dx,) = torch.autograd.grad((y * 2).sum() + small.sum(), leaf)
    names = kernels(gpu, before)
    assert names[-2:] == ["small_kernel", "small_add_kernel"]  # after those of the self-check
    exact = x.double().requires_grad_()
    wanted = upfirdn2d(exact, f.double(), down=2, padding=1)
    (wanted_dx,) = torch.autograd.grad((exact * 2).sum() + wanted.sum(), exact)
    assert error_of(small.detach().cpu(), wanted.detach()) <= torch.finfo(dtype).eps
    assert error_of(dx.cpu(), wanted_dx) <= torch.finfo(dtype).eps
