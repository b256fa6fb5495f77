import json
import math

import pytest
import torch

CFGS = ["stylegan3-t", "stylegan3-r", "stylegan2"]


def latents(G, n=2):
    generator = torch.Generator().manual_seed(1)
    c = torch.eye(G.c_dim)[torch.arange(n) % G.c_dim] if G.c_dim else torch.zeros(n, 0)
    return torch.randn(n, G.z_dim, generator=generator), c


@pytest.mark.parametrize("cfg", CFGS)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_rebuilds_from_plain_arguments_and_weights(small_generator, cfg, c_dim):
    G = small_generator(cfg, c_dim, mapping_kwargs={"num_layers": 3})
    arguments = json.loads(json.dumps(G.init_kwargs))
    assert arguments == G.init_kwargs
    torch.manual_seed(5)
    again = type(G)(**arguments)
    again.load_state_dict(G.state_dict(), strict=True)
    z, c = latents(G)
    first, second, third = G(z, c), G(z, c), again(z, c)
    assert first.shape == (2, 3, 32, 32) and first.dtype == torch.float32
    assert torch.equal(first, second)
    assert torch.equal(first, third)


@pytest.mark.parametrize("cfg", CFGS)
@pytest.mark.parametrize("resolution", [16, 64])
def test_other_resolutions_and_channels(small_generator, cfg, resolution):
    G = small_generator(cfg, img_resolution=resolution, img_channels=1)
    assert G(*latents(G, 1)).shape == (1, 1, resolution, resolution)


@pytest.mark.parametrize("cfg", CFGS)
def test_samples_do_not_depend_on_the_batch(small_generator, cfg):
    G = small_generator(cfg)
    if cfg != "stylegan2":  # their styles are scaled by their size over the whole batch
        z, c = latents(G, 1)
        torch.testing.assert_close(G(z.repeat(3, 1), c.repeat(3, 1))[2:], G(z, c))
        return
    z, c = latents(G, 3)
    torch.testing.assert_close(G(z, c)[1:2], G(z[1:2], c[1:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cfg", CFGS)
def test_double_precision_is_double_throughout(small_generator, cfg):
    G = small_generator(cfg)
    z, c = latents(G)
    single = G(z, c)
    double = G.double()(z, c)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cfg", CFGS)
def test_truncation_pulls_towards_the_average(small_generator, cfg):
    G = small_generator(cfg)
    z, c = latents(G)
    G.mapping(z, c, update_emas=True)
    mean = G.mapping(z, c)[:, 0].mean(dim=0)
    torch.testing.assert_close(G.mapping.w_avg, 0.002 * mean)
    ws = G.mapping(z, c, truncation_psi=0, truncation_cutoff=2)
    assert torch.equal(ws[:, :2], G.mapping.w_avg.expand(2, 2, -1))
    assert torch.equal(ws[:, 2:], G.mapping(z, c)[:, 2:])
    before = G.mapping.w_avg.clone()
    G(z, c)
    assert torch.equal(G.mapping.w_avg, before)


def test_initial_weights_follow_the_global_seed(small_generator):
    first, second = small_generator("stylegan3-t"), small_generator("stylegan3-t")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    radii = first.synthesis.input.freqs.norm(dim=1)
    assert float(radii.max()) <= 2 and first.synthesis.input.freqs.shape == (8, 2)


def test_frequencies_are_uniform_on_the_disc(small_generator):
    G = small_generator("stylegan3-t", channel_base=2**15, channel_max=2048, num_layers=3)
    radii = G.synthesis.input.freqs.norm(dim=1)
    assert len(radii) == 2048
    # the radius r = 2 exp(-g^2/4) of a Gaussian's g has P(r < x) = (x / 2)^2
    for part in (0.25, 0.5, 0.75):
        share = float((radii < 2 * math.sqrt(part)).float().mean())
        assert share == pytest.approx(part, abs=0.04)
    phases = G.synthesis.input.phases  # uniform in half a turn to either side
    assert float(phases.abs().max()) <= 0.5 and abs(float(phases.mean())) < 0.03
    assert float(phases.std()) == pytest.approx(1 / math.sqrt(12), abs=0.01)


def test_half_precision_layers_follow_the_schedule(small_generator):
    G = small_generator("stylegan3-t", num_fp16_res=1)
    flags = [plan.use_fp16 for plan in G.synthesis.schedule.layers]
    assert flags == [p.out_sampling_rate * 2 > 32 for p in G.synthesis.schedule.layers]
    assert any(flags) and not all(flags)


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r"])
@torch.no_grad()
def test_translation_moves_the_image(small_generator, cfg):
    G = small_generator(cfg)
    z, c = latents(G, 1)
    still = G(z, c)
    pixels = 4
    G.synthesis.input.transform[0, 2] = -pixels / 32
    moved = G(z, c)
    inside = slice(10, 22)
    shifted = still[:, :, inside, 10 - pixels : 22 - pixels]
    power = (still[:, :, inside, inside] - still.mean()).square().mean()
    error = (moved[:, :, inside, inside] - shifted).square().mean()
    assert 10 * math.log10(float(power / error)) > 40  # dB


@torch.no_grad()
def test_rotation_rotates_the_image_of_configuration_r(small_generator):
    G = small_generator("stylegan3-r")
    z, c = latents(G, 1)
    still = G(z, c)
    G.synthesis.input.transform.copy_(torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]))
    turned = G(z, c)
    inside = (..., slice(8, 24), slice(8, 24))
    power = (still[inside] - still.mean()).square().mean()
    errors = [(turned - still.rot90(k, (2, 3)))[inside].square().mean() for k in (1, -1)]
    assert 10 * math.log10(float(power / min(errors))) > 40  # dB


def test_noise_modes(small_generator):
    G = small_generator("stylegan2")
    z, c = latents(G)
    with torch.no_grad():
        for name, p in G.named_parameters():
            if name.endswith("noise_strength"):
                p.fill_(0.3)
    constant = G(z, c)
    assert torch.equal(constant, G(z, c, noise_mode="const"))
    assert torch.equal(G(z, c, noise_mode="none"), G(z, c, noise_mode="none"))
    assert not torch.equal(constant, G(z, c, noise_mode="none"))
    assert not torch.equal(G(z, c, noise_mode="random"), G(z, c, noise_mode="random"))
    with pytest.raises(ValueError, match="noise_mode"):
        G(z, c, noise_mode="white")


def test_without_noise_there_are_no_noise_buffers(small_generator):
    G = small_generator("stylegan2", use_noise=False)
    assert not [k for k in G.state_dict() if "noise" in k]
    assert G(*latents(G)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("cfg", CFGS)
def test_wrong_inputs_are_worded(small_generator, cfg):
    G = small_generator(cfg, 3)
    z, c = latents(G)
    with pytest.raises(ValueError, match=r"z must be \[N, 32\]"):
        G(z[:, :5], c)
    with pytest.raises(ValueError, match=r"c must be \[N, 3\], found nothing"):
        G(z, None)
    with pytest.raises(ValueError, match="ws must be"):
        G.synthesis(torch.zeros(1, 3, 32))


@pytest.mark.parametrize("cfg", CFGS)
def test_no_latents_give_no_images(small_generator, cfg):
    G = small_generator(cfg)
    assert G(torch.zeros(0, 32), torch.zeros(0, 0)).shape == (0, 3, 32, 32)
