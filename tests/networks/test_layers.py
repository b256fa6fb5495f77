"""The layers of the networks by their formulas, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator, stylegan2, stylegan3
from sg3flow.networks.conv_layer import Conv2dLayer
from sg3flow.networks.layer_schedule import ScheduleArguments, lowpass_filter, plan_layers
from sg3flow.networks.layers import (
    FullyConnectedLayer,
    MappingNetwork,
    mean_square,
    normalize_2nd_moment,
)
from sg3flow.ops import filtered_lrelu, setup_filter, upsample2d

ROOT_2 = math.sqrt(2)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """In float64, with every parameter a normal number plus its initial mean."""
    module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i) + parameter.mean())
    return module


def linear(layer: FullyConnectedLayer, x: torch.Tensor, lr_multiplier: float = 1) -> torch.Tensor:
    """Weights over the root of the inputs; weights and bias times the multiplier."""
    gain = lr_multiplier / math.sqrt(x.shape[1])
    return x @ layer.weight.t() * gain + layer.bias * lr_multiplier


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * ROOT_2


def convolved(x, weight, styles, demodulate=True, padding=0):
    """One convolution for each sample, with its own weights (Karras et al. 2020, Eq. 1 and 3)."""
    results = []
    for image, style in zip(x, styles, strict=True):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        results.append(F.conv2d(image[None], w, padding=padding))
    return torch.cat(results)


def test_fully_connected_layers_equalize_the_learning_rate():
    x = normal(4, 6)
    for multiplier in (1.0, 0.01):
        layer = FullyConnectedLayer(6, 5, lr_multiplier=multiplier, bias_init=0.5)
        assert layer.bias.tolist() == [pytest.approx(0.5 / multiplier)] * 5
        layer = randomized(layer)
        torch.testing.assert_close(layer(x), linear(layer, x, multiplier))
        layer.activation = "lrelu"
        torch.testing.assert_close(layer(x), lrelu(linear(layer, x, multiplier)))
    torch.manual_seed(0)
    layer = FullyConnectedLayer(100, 100, lr_multiplier=0.01, weight_init=3)
    assert float(layer.weight.detach().std()) == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_equalize_the_learning_rate(kernel):
    x = normal(2, 4, 8, 8)
    layer = randomized(Conv2dLayer(4, 6, kernel, activation="lrelu", conv_clamp=0.8))
    plain = F.conv2d(x, layer.weight, padding=kernel // 2) / math.sqrt(4 * kernel**2)
    expected = lrelu(plain + layer.bias[:, None, None])
    torch.testing.assert_close(layer(x), expected.clamp(-0.8, 0.8))
    torch.testing.assert_close(layer(x, gain=0.5), (expected * 0.5).clamp(-0.4, 0.4))
    layer = randomized(Conv2dLayer(4, 6, kernel, bias=False))  # linear: without the root of 2
    plain = F.conv2d(x, layer.weight, padding=kernel // 2) / math.sqrt(4 * kernel**2)
    torch.testing.assert_close(layer(x, gain=0.5), plain * 0.5)


def test_latents_are_normalized_each_to_unit_variance():
    x = normal(3, 7) * torch.tensor([[1.0], [10], [100]])
    found = normalize_2nd_moment(x)
    torch.testing.assert_close(found, x / x.square().mean(dim=1, keepdim=True).sqrt())


def mapped(network: MappingNetwork, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """w [N, w_dim]: normalized z and embedded label, then layers of a hundredth of the rate."""
    parts = [z, linear(network.embed, c)]
    x = torch.cat([p / (p.square().mean(dim=1, keepdim=True) + 1e-8).sqrt() for p in parts], dim=1)
    for i in range(network.num_layers):
        x = lrelu(linear(network.get_submodule(f"fc{i}"), x, 0.01))
    return x


@pytest.fixture
def mapping():
    return randomized(MappingNetwork(z_dim=5, c_dim=3, w_dim=4, num_ws=6, num_layers=3))


def test_the_mapping_network_by_its_formula(mapping):
    z, c = normal(7, 5) * 3, torch.eye(3, dtype=torch.float64)[torch.arange(7) % 3]
    expected = mapped(mapping, z, c)[:, None].repeat(1, 6, 1)
    torch.testing.assert_close(mapping(z, c), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("cutoff", "moved"), [(None, 6), (2, 2)])
def test_truncation_moves_w_to_the_average_by_psi(mapping, cutoff, moved):
    """w' = w_avg + psi (w - w_avg) (Karras et al. 2019, appendix B)."""
    mapping.w_avg.copy_(normal(4, seed=9))
    z, c = normal(2, 5), torch.eye(3, dtype=torch.float64)[:2]
    ws = mapping(z, c)
    for psi in (0.7, 0.0, -0.5):
        expected = ws.clone()
        expected[:, :moved] = mapping.w_avg + psi * (ws[:, :moved] - mapping.w_avg)
        torch.testing.assert_close(mapping(z, c, psi, cutoff), expected)


def test_generators_pass_psi_on(small_generator):
    G = small_generator("stylegan3-t")
    G.mapping.w_avg.fill_(0.5)
    z, c = torch.randn(2, 32), torch.zeros(2, 0)
    expected = G.synthesis(G.mapping(z, c, 0.7, 3))
    assert torch.equal(G(z, c, truncation_psi=0.7, truncation_cutoff=3), expected)
    assert (G.mapping.num_layers, StyleGAN2Generator.mapping_layers) == (2, 8)


def test_the_average_of_w_decays_by_its_beta(mapping):
    mapping.w_avg.fill_(2)
    z, c = normal(5, 5), torch.zeros(5, 3, dtype=torch.float64)
    mean = mapping(z, c, update_emas=True)[:, 0].mean(dim=0)
    torch.testing.assert_close(mapping.w_avg, 0.998 * torch.full_like(mean, 2) + 0.002 * mean)


SCHEDULE = plan_layers(ScheduleArguments(32, 3, channel_base=256, channel_max=8))


def alias_free_layer(number: int, **options) -> stylegan3.SynthesisLayer:
    plan = SCHEDULE.layers[number]
    layer = stylegan3.SynthesisLayer(6, plan, conv_kernel=3, conv_clamp=None, beta=0.9)
    return randomized(layer)


@pytest.mark.parametrize("number", [0, 4, 13])  # 13 is sampled critically
def test_layers_of_stylegan3_by_their_formula(number):
    layer, plan = alias_free_layer(number), SCHEDULE.layers[number]
    x, w = normal(2, plan.in_channels, plan.in_size, plan.in_size), normal(2, 6)
    layer.magnitude_ema.fill_(4)
    y = convolved(x, layer.weight, linear(layer.affine, w), padding=2) / 2  # the root of 4
    rate = max(plan.in_sampling_rate, plan.out_sampling_rate) * 2
    up, down = round(rate / plan.in_sampling_rate), round(rate / plan.out_sampling_rate)
    expected = filtered_lrelu(
        y,
        fu=lowpass_filter(6 * up, plan.in_cutoff, 2 * plan.in_half_width, rate),
        fd=lowpass_filter(6 * down, plan.out_cutoff, 2 * plan.out_half_width, rate),
        b=layer.bias,
        up=up,
        down=down,
        padding=plan.padding,
        gain=ROOT_2,
        slope=0.2,
    )
    # The demodulation adds 1e-8 to weights that were normalized before.
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-5, atol=1e-6)


def test_to_rgb_of_stylegan3_is_linear_and_not_demodulated():
    layer, plan = alias_free_layer(-1), SCHEDULE.layers[-1]
    x, w = normal(2, plan.in_channels, 32, 32), normal(2, 6)
    layer.magnitude_ema.fill_(4)
    styles = linear(layer.affine, w) / math.sqrt(plan.in_channels)
    expected = convolved(x, layer.weight, styles, demodulate=False) / 2
    expected = expected + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, w), expected)


def test_layers_divide_by_the_running_magnitude_of_their_input():
    layer, plan = alias_free_layer(0), SCHEDULE.layers[0]
    x, w = normal(2, plan.in_channels, plan.in_size, plan.in_size) * 3, normal(2, 6)
    layer.magnitude_ema.fill_(2)
    expected = 0.9 * 2 + 0.1 * float(x.square().mean())
    moving = layer(x, w, update_emas=True)
    assert float(layer.magnitude_ema) == pytest.approx(expected)
    assert torch.equal(moving, layer(x, w))  # the new one is used at once
    assert float(layer.magnitude_ema) == pytest.approx(expected)


def test_styles_begin_around_1_and_images_are_a_quarter_of_the_last_layer():
    G = StyleGAN3Generator(8, 0, 8, 16, 3, channel_base=64, channel_max=8)
    for plan in G.synthesis.schedule.layers:
        assert set(G.synthesis.get_submodule(plan.name).affine.bias.tolist()) == {1.0}
    last = G.synthesis.get_submodule(G.synthesis.schedule.layers[-1].name)
    last.weight.data.zero_()
    last.bias.data.fill_(2)
    assert G(torch.randn(1, 8), None).unique().tolist() == [0.5]


def test_layers_of_stylegan2_by_their_formula():
    layer = stylegan2.SynthesisLayer(4, 6, 5, 8, 1, (1, 3, 3, 1), conv_clamp=1.5, use_noise=True)
    assert set(layer.affine.bias.tolist()) == {1.0} and float(layer.noise_strength.detach()) == 0
    layer = randomized(layer)
    layer.noise_strength.data.fill_(0.3)
    x, w = normal(2, 4, 8, 8), normal(2, 5)
    y = convolved(x, layer.weight, linear(layer.affine, w), padding=1)
    for mode, noise in (("none", 0.0), ("const", layer.noise_const * 0.3)):
        expected = lrelu(y + noise + layer.bias[:, None, None]).clamp(-1.5, 1.5)
        torch.testing.assert_close(layer(x, w, mode), expected)


def test_random_noise_has_its_strength_and_differs_between_samples():
    layer = stylegan2.SynthesisLayer(1, 1, 2, 64, 1, (1, 3, 3, 1), conv_clamp=None, use_noise=True)
    layer.weight.data.zero_()
    layer.noise_strength.data.fill_(0.3)
    torch.manual_seed(0)
    y = layer(torch.zeros(2, 1, 64, 64), torch.zeros(2, 2), "random").detach() / ROOT_2
    noise = torch.where(y < 0, y / 0.2, y)  # before the leaky ReLU
    assert float(noise.std()) == pytest.approx(0.3, rel=0.05)
    assert abs(float((noise[0] * noise[1]).mean())) < 0.01


def test_to_rgb_and_skip_connections_of_stylegan2_by_their_formula():
    filters = {"resample_filter": (1, 3, 3, 1), "conv_clamp": 256, "use_noise": False}
    block = stylegan2.SynthesisBlock(4, 6, 5, 8, 3, use_fp16=False, **filters)
    block = randomized(block)
    x, img, ws = normal(2, 4, 4, 4), normal(2, 3, 4, 4), normal(2, 3, 5)
    features, rgb = block(x, img, ws, "none", False)
    styles = linear(block.torgb.affine, ws[:, 2]) / math.sqrt(6)
    own = convolved(features, block.torgb.weight, styles, demodulate=False)
    own = own + block.torgb.bias[:, None, None]
    torch.testing.assert_close(rgb, own + upsample2d(img, setup_filter((1, 3, 3, 1))))


def test_each_layer_of_stylegan2_has_its_w(small_generator):
    """ToRGB shares its w with the first layer of the next block."""
    G, seen = small_generator("stylegan2"), {}
    for name, module in G.synthesis.named_modules():
        if name.endswith("affine"):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.update({name: float(inputs[0][0, 0])})
            )
    G.synthesis(torch.arange(8.0)[None, :, None].expand(1, 8, 32).contiguous())
    expected = {"b4.conv1": 0, "b4.torgb": 1}
    for first, res in ((1, 8), (3, 16), (5, 32)):
        names = (f"b{res}.conv0", f"b{res}.conv1", f"b{res}.torgb")
        expected |= {name: first + i for i, name in enumerate(names)}
    assert seen == {f"{name}.affine": w for name, w in expected.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_mean_square_in_one_pass_agrees(monkeypatch, dtype):
    x = (40 * torch.randn(4, 8, 33, 31, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = x.double().square().mean()
    several_passes = mean_square(x, torch.float32)
    monkeypatch.setattr("sg3flow.networks.layers.has_fused_forms", lambda device: True)
    one_pass = mean_square(x, torch.float32)
    for found in (several_passes, one_pass):
        assert found.dtype == torch.float32 and found.shape == ()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
