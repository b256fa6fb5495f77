"""The networks on stand-ins for a GPU, against the CPU: a step of training, and regularization."""

import pytest
import stand_in
import torch
from op_comparison import error_of
from torch.func import functional_call

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

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


def moved(network, device, dtype=torch.float32):
    """The tensors of a network on a device, with gradients for its parameters."""
    names = {name for name, _ in network.named_parameters()}
    return {
        name: tensor.detach().to(dtype).to(device).requires_grad_(name in names)
        for name, tensor in network.state_dict().items()
    }


def gradients_of(network, tensors, inputs, force_fp32):
    """The result, and the gradients of a loss by input and by all weights; then those by all
    weights of R1 or path lengths, which differentiate twice."""
    inputs = inputs.clone().requires_grad_()
    options = {"force_fp32": force_fp32}
    y = functional_call(network, tensors, (inputs, *network_extra(network)), options)
    weights = [tensor for tensor in tensors.values() if tensor.requires_grad]
    loss = y.square().mean()  # of a sum, the second gradients leave the range of float16
    first = torch.autograd.grad(loss, [inputs, *weights], allow_unused=True, create_graph=True)
    penalty = first[0].square().sum()
    second = torch.autograd.grad(penalty, weights, allow_unused=True)
    return [y.detach(), first[0].detach(), flat(first[1:]).detach(), flat(second)]


def network_extra(network):
    return (None,) if isinstance(network, Discriminator) else ()


@pytest.mark.parametrize("force_fp32", [True, False])
@pytest.mark.parametrize("name", ["stylegan2", "discriminator"])
def test_regularization(gpu, plain, numbers, name, force_fp32):
    """Path lengths and R1, against float64 on the CPU."""
    torch.manual_seed(0)
    sizes = {"channel_base": 256, "channel_max": 16}
    if name == "discriminator":
        network, given = Discriminator(0, 32, 3, **sizes), numbers(4, 3, 32, 32)
    else:
        G = StyleGAN2Generator(8, 0, 8, 32, 3, **sizes)
        network, given = G.synthesis, numbers(2, G.num_ws, 8)
    doubles = moved(network, "cpu", torch.float64)
    exact = plain(gradients_of, network, doubles, given.double(), True)
    found = gradients_of(network, moved(network, GPU), given.to(GPU), force_fp32)
    limit = 1e-4 if force_fp32 else 2e-2
    for one, other in zip(found, exact, strict=True):
        assert error_of(one.cpu(), other) <= limit
