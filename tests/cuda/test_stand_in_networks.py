"""The networks on stand-ins for a GPU: results and gradients against float64 on the CPU."""

import pytest
import stand_in
import torch
from op_comparison import error_of

from sg3flow.networks import Discriminator, StyleGAN2Generator, StyleGAN3Generator

pytestmark = pytest.mark.medium

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def gpu(whole_library, tmp_path_factory):
    library = stand_in.StandIn(whole_library)
    with stand_in.installed(library, tmp_path_factory.mktemp("kernels"), 90) as found:
        yield found


NETWORKS = {
    "stylegan3-t": (StyleGAN3Generator, {"num_layers": 6}),
    "stylegan3-r": (
        StyleGAN3Generator,
        {"num_layers": 6, "conv_kernel": 1, "use_radial_filters": True},
    ),
    "stylegan2": (StyleGAN2Generator, {}),
}


def moved(network, device, dtype=torch.float32):
    """The tensors of a network on a device, with gradients for its parameters."""
    names = {name for name, _ in network.named_parameters()}
    return {
        name: tensor.detach().to(dtype).to(device).requires_grad_(name in names)
        for name, tensor in network.state_dict().items()
    }


def gradients_of(network, tensors, inputs, force_fp32, is_regularized):
    """The result, and the gradients of a loss by input and by all weights.

    If regularized, also those by all weights of R1 or path lengths, which differentiate twice.
    """
    inputs = inputs.clone().requires_grad_()
    options = {"force_fp32": force_fp32}
    y = torch.func.functional_call(network, tensors, (inputs, *network_extra(network)), options)
    weights = [tensor for tensor in tensors.values() if tensor.requires_grad]
    # A sum keeps gradients in the range of float16; twice differentiated, a mean does.
    loss = y.square().mean() if is_regularized else y.square().sum()
    first = torch.autograd.grad(
        loss, [inputs, *weights], allow_unused=True, create_graph=is_regularized
    )
    found = [y.detach(), first[0].detach(), joined(first[1:])]
    if is_regularized:
        penalty = first[0].square().sum()
        found.append(joined(torch.autograd.grad(penalty, weights, allow_unused=True)))
    return found


def joined(gradients):
    return torch.cat([each.detach().flatten() for each in gradients if each is not None])


def network_extra(network):
    return (None,) if isinstance(network, Discriminator) else ()


@pytest.mark.parametrize("force_fp32", [True, False])
@pytest.mark.parametrize("cfg", [*NETWORKS, "discriminator"])
def test_networks_on_a_gpu(gpu, plain, numbers, cfg, force_fp32):
    """With the forms of a GPU, kernels and half precision, against float64 on the CPU."""
    torch.manual_seed(0)
    sizes = {"channel_base": 256, "channel_max": 16}
    if cfg == "discriminator":
        network, given = Discriminator(0, 32, 3, **sizes), numbers(4, 3, 32, 32)
    else:
        kind, options = NETWORKS[cfg]
        G = kind(8, 0, 8, 32, 3, **sizes, **options)
        network, given = G.synthesis, numbers(2, G.num_ws, 8)
    twice = cfg in ("discriminator", "stylegan2")
    doubles = moved(network, "cpu", torch.float64)
    exact = plain(gradients_of, network, doubles, given.double(), True, twice)
    before = len(gpu.launches())
    found = gradients_of(network, moved(network, GPU), given.to(GPU), force_fp32, twice)
    launched = {launch.kernel.split("<")[0] for launch in gpu.launches()[before:]}
    if cfg.startswith("stylegan3"):
        assert ("sg3::tile_kernel" if force_fp32 else "sg3::band_kernel") in launched
    else:
        assert {"sg3::small_kernel", "sg3::bias_act_kernel"} <= launched
    limit = 1e-4 if force_fp32 else 2e-2
    for one, other in zip(found, exact, strict=True):
        assert error_of(one.cpu(), other) <= limit
