"""The networks on stand-ins for a GPU: a step of training, with R1, against the CPU."""

import pytest
import stand_in
import torch
from torch.func import functional_call

from sg3flow.networks.discriminator import Discriminator
from sg3flow.networks.stylegan3 import StyleGAN3Generator

pytestmark = pytest.mark.medium

GPU = torch.device("cuda", 0)
CONFIGS = {"t": {}, "r": {"conv_kernel": 1, "use_radial_filters": True}}


@pytest.fixture(scope="module")
def gpu(whole_library, tmp_path_factory):
    library = stand_in.StandIn(whole_library)
    with stand_in.installed(library, tmp_path_factory.mktemp("kernels"), 90) as found:
        yield found


def on(device, network):
    """The network's tensors on a device, for `functional_call`."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.to(device) for name, tensor in named}


def step(device, G, D, z, real):
    """(image, gradients of G, gradients of D with R1): of losses with softplus, as in training."""
    c = torch.zeros(len(z), 0, device=device)
    g, d = on(device, G), on(device, D)
    img = functional_call(G, g, (z.to(device), c))
    loss = torch.nn.functional.softplus(-functional_call(D, d, (img, c))).mean()
    G_grads = torch.autograd.grad(loss, list(G.parameters()), allow_unused=True, retain_graph=True)
    real = real.to(device).requires_grad_()
    logits = functional_call(D, d, (real, c))
    (dx,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    penalty = dx.square().sum((1, 2, 3)).mean() + torch.nn.functional.softplus(-logits).mean()
    D_grads = torch.autograd.grad(penalty, list(D.parameters()), allow_unused=True)
    return img.detach().cpu(), flat(G_grads), flat(D_grads)


def flat(gradients):
    return torch.cat([each.flatten() for each in gradients if each is not None])


def networks(name, **options):
    torch.manual_seed(0)
    sizes = {"img_resolution": 32, "img_channels": 3, "channel_base": 256, "channel_max": 8}
    G = StyleGAN3Generator(8, 0, 8, **sizes, num_layers=6, **CONFIGS[name], **options)
    D = Discriminator(0, **sizes, **options)
    return G, D, torch.randn(2, 8), torch.rand(2, 3, 32, 32) * 2 - 1


def errors(found, expected):
    return [float((a - e).norm() / e.norm()) for a, e in zip(found, expected, strict=True)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_in_half_precision(gpu, monkeypatch, name):
    before = len(gpu.launches())
    exact = step(torch.device("cpu"), *networks(name))
    ours = step(GPU, *networks(name))
    launched = {launch.kernel.split("<")[0] for launch in gpu.launches()[before:]}
    assert {"sg3::band_kernel", "sg3::small_kernel", "sg3::bias_act_kernel"} <= launched
    monkeypatch.setenv("SG3FLOW_OPS", "torch")
    theirs = step(GPU, *networks(name))
    for found, plain in zip(errors(ours, exact), errors(theirs, exact), strict=True):
        assert found <= 2 * plain + 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_in_single_precision(gpu, name):
    before = len(gpu.launches())
    exact = step(torch.device("cpu"), *networks(name, num_fp16_res=0))
    ours = step(GPU, *networks(name, num_fp16_res=0))
    launched = {launch.kernel.split("<")[0] for launch in gpu.launches()[before:]}
    assert "sg3::tile_kernel" in launched and "sg3::band_kernel" not in launched
    assert max(errors(ours, exact)) <= 2e-5
