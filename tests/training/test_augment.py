"""The augmentation pipe against golden numbers, closed forms and statistics."""

import math

import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.networks.augment import AUGMENT_PRESETS, AugmentPipe, first_draws
from sg3flow.networks.augment_geometry import AugmentConfig, sample_bilinear
from sg3flow.networks.augment_random import RandomParameters, product

BLIT = ("xflip", "rotate90", "xint")
GEOM = ("scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
GROUPS = {
    "blit": BLIT,
    "geom": GEOM,
    "color": COLOR,
    "bgc": BLIT + GEOM + COLOR,
    "filter": ("imgfilter",),
    "cutout": ("cutout",),
}
CASES = [
    (f"{group}_{percentile}", "x", dict.fromkeys(names, 1))
    for group, names in GROUPS.items()
    for percentile in (0.15, 0.5, 0.8)
]
CASES += [("gray_color_0.8", "gray_x", dict.fromkeys(COLOR, 1))]
CASES += [
    (f"filter_bands{bands}_0.8", "x", {"imgfilter": 1, "imgfilter_bands": list(map(int, bands))})
    for bands in ("1000", "0011")
]


@pytest.fixture(scope="module")
def expected(golden):
    with np.load(golden / "augment.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture
def x():
    return torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def waves():
    """A smooth image without any symmetry, level at its edges."""
    x = (torch.arange(32) + 0.5) / 32 * math.pi
    return (x.cos() + 0.5 * (2 * x).cos() + (x[:, None]).cos() * 0.3).expand(1, 3, 32, 32).clone()


def error(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("key, source, multipliers", CASES, ids=[case[0] for case in CASES])
def test_golden(key, source, multipliers, expected):
    group, _, percentile = key.rpartition("_")
    y = AugmentPipe(**multipliers)(expected[source].clone(), float(percentile))
    tolerance = 5e-5 if group in ("blit", "geom", "bgc") else 1e-6
    assert error(y, expected[key]) <= tolerance


def test_golden_filters(expected):
    pipe = AugmentPipe()
    assert error(pipe.Hz_geom, expected["Hz_geom"]) <= 1e-6
    assert error(pipe.Hz_fbank, expected["Hz_fbank"]) <= 1e-6


def test_the_bands_sum_to_the_identity():
    total = AugmentPipe().Hz_fbank.sum(dim=0)
    delta = torch.zeros(43)
    delta[21] = 1
    assert torch.allclose(total, delta, atol=1e-6)


def test_p_of_0_is_the_identity(x):
    everything = dict.fromkeys((*GROUPS["bgc"], "imgfilter", "cutout", "noise"), 1)
    pipe = AugmentPipe(**everything)
    pipe.p.zero_()
    assert torch.equal(pipe(x), x)


def test_no_multipliers_are_the_identity_and_draw_nothing(x):
    state = torch.get_rng_state()
    assert torch.equal(AugmentPipe()(x), x)
    assert torch.equal(torch.get_rng_state(), state)


# The wavelet is not symmetric: a flipped or rotated image is exact only where it is
# smooth, unlike the identity and whole-pixel shifts, which are exact for every image.


def test_xflip_flips(waves):
    assert torch.allclose(AugmentPipe(xflip=1)(waves, 0.8), waves.flip(3), atol=2e-2)


@pytest.mark.parametrize("percentile, turns", [(0.1, 0), (0.3, 1), (0.6, 2), (0.9, 3)])
def test_rotate90_rotates(percentile, turns, waves):
    # Rot(+90 degrees) maps the output's right to the input's bottom: the image rotates left.
    expected = torch.rot90(waves, turns, dims=(2, 3))
    assert torch.allclose(AugmentPipe(rotate90=1)(waves, percentile), expected, atol=2e-2)


def test_integer_shifts_move_whole_pixels_and_reflect(x):
    y = AugmentPipe(xint=1)(x, 1.0)  # 0.125 of 24 pixels: 3 to the right and down
    assert torch.allclose(y[..., 3:, 3:], x[..., :-3, :-3], atol=1e-5)
    assert torch.allclose(y[..., 3:, :3], x[..., :-3, 1:4].flip(3), atol=1e-5)
    y = AugmentPipe(xint=1)(x, 0.9)  # 2.4 pixels, rounded
    assert torch.allclose(y[..., 2:, 2:], x[..., :-2, :-2], atol=1e-5)


def test_an_isotropic_scale_of_2_keeps_the_center():
    smooth = torch.linspace(-1, 1, 24).expand(1, 3, 24, 24)
    y = AugmentPipe(scale=1, scale_std=1)(smooth, 0.5 + math.erf(1) / 2)  # 2^1
    assert torch.allclose(y[..., 4:-4], smooth[..., 4:-4] / 2, atol=2e-2)


STD = 0.5 + math.erf(1) / 2  # the percentile at which a normal value is its std


@pytest.fixture
def ramp():
    """As high as the distance from the center of 24 pixels, to the right: slope 1."""
    return (torch.arange(24) - 11.5).expand(1, 3, 24, 24).clone()


def middle(image):
    return image[..., 6:-6, 6:-6]


def test_an_anisotropic_scale_widens_and_flattens(ramp):
    y = AugmentPipe(aniso=1, aniso_std=0.5)(ramp, STD)  # 2^0.5 times as wide
    assert torch.allclose(middle(y), middle(ramp) / 2**0.5, atol=0.05)
    y = AugmentPipe(aniso=1, aniso_std=0.5)(ramp.mT.contiguous(), STD)
    assert torch.allclose(middle(y), middle(ramp.mT) * 2**0.5, atol=0.05)


def test_fractional_shifts_are_parts_of_the_width(ramp):
    pipe = AugmentPipe(xfrac=1, xfrac_std=2.5 / 24)
    assert torch.allclose(middle(pipe(ramp, STD)), middle(ramp) - 2.5, atol=0.02)  # to the right
    down = pipe(ramp.mT.contiguous(), STD)
    assert torch.allclose(middle(down), middle(ramp.mT) - 2.5, atol=0.02)


@pytest.mark.parametrize(("percentile", "turns"), [(0.75, 1), (0.25, -1)])
def test_rotations_reach_half_a_turn_to_either_side(percentile, turns, waves):
    expected = torch.rot90(waves, turns, dims=(2, 3))
    assert torch.allclose(AugmentPipe(rotate=1)(waves, percentile), expected, atol=2e-2)
    half = AugmentPipe(rotate=1, rotate_max=0.5)(waves, 0.5 + turns * 0.5)
    assert torch.allclose(half, expected, atol=2e-2)


def test_images_are_flipped_and_turned_before_they_are_shifted(waves):
    y = AugmentPipe(xflip=1, rotate90=1, xint=1)(waves, 1.0)
    moved = waves.flip(3).rot90(3, dims=(2, 3))[..., :-4, :-4]
    assert torch.allclose(y[..., 4:, 4:], moved, atol=2e-2)


def test_random_values_have_their_distributions():
    torch.manual_seed(0)
    random = RandomParameters(20_000, 0.5, None)
    low_high = random.uniform(-1, 3)
    assert float(low_high.min()) < -0.99 and 2.99 < float(low_high.max()) < 3
    assert float(low_high.mean()) == pytest.approx(1, abs=0.03)
    for values in (random.normal(0.3), random.half_normal(0.3)):
        assert float(np.square(values).mean() ** 0.5) == pytest.approx(0.3, rel=0.03)
    shares = np.bincount(random.choice(4).astype(int)) / 20_000
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.02)
    for multiplier, share in ((1, 0.5), (0.2, 0.1), (3, 1.0)):
        applied = random.applied(multiplier).mean()
        assert float(applied) == pytest.approx(share, abs=0.02)


def test_flips_and_quarter_turns_are_half_and_three_quarters_of_what_is_applied():
    torch.manual_seed(0)
    images = torch.linspace(-1, 1, 8).expand(4000, 1, 8, 8) + torch.linspace(0, 9, 8)[:, None]
    for name, share in (("xflip", 0.5), ("rotate90", 0.75)):
        pipe = AugmentPipe(**{name: 1})
        pipe.p.fill_(0.6)
        changed = (pipe(images) - images).abs().amax(dim=(1, 2, 3)) > 1e-3
        assert float(changed.float().mean()) == pytest.approx(0.6 * share, abs=0.03)


BAND_POWER = torch.tensor([10, 1, 1, 1]) / 13


@pytest.mark.parametrize("band", range(4))
def test_filters_scale_a_band_on_both_axes_and_keep_the_expected_power(band):
    bands = [float(i == band) for i in range(4)]
    pipe = AugmentPipe(imgfilter=1, imgfilter_bands=bands)
    gains = torch.tensor([2.0 if i == band else 1.0 for i in range(4)])
    gains = gains / (BAND_POWER * gains.square()).sum().sqrt()
    flat, stripes = torch.ones(1, 3, 48, 48), torch.tensor([1.0, -1]).repeat(24)
    images = {(0, 0): flat, (0, 3): flat * stripes, (3, 0): flat * stripes[:, None]}
    for (along, across), image in images.items():  # stripes are all in the highest band
        expected = image * gains[along] * gains[across]
        assert torch.allclose(pipe(image, STD)[..., 22:26, 22:26], expected[..., 22:26, 22:26])


def test_gray_images_change_like_gray_in_color(x):
    gray, colors = x[:, :1], dict.fromkeys(COLOR, 1)
    for percentile in (0.3, 0.8):
        expected = AugmentPipe(**colors)(gray.expand(-1, 3, -1, -1), percentile)
        y = AugmentPipe(**colors)(gray, percentile)
        assert torch.allclose(y.expand(-1, 3, -1, -1), expected, atol=1e-5)


def test_hue_turns_to_either_side(x):
    assert torch.allclose(AugmentPipe(hue=1)(x, 0.5 - 1 / 3), x.roll(-1, dims=1), atol=1e-6)


def test_boxes_are_cut_out_anywhere():
    torch.manual_seed(0)
    y = AugmentPipe(cutout=1)(torch.ones(500, 1, 16, 16))
    cut = 1 - y.mean(dim=0)[0]
    # On each axis a box covers the middle with probability 1/2, the edge with 1/4.
    assert float(cut[6:10, 6:10].mean()) == pytest.approx(1 / 4, abs=0.04)
    assert float(cut[::15, ::15].mean()) == pytest.approx(1 / 4**2, abs=0.03)
    symmetric = (y == y.mT).flatten(1).all(dim=1)
    assert float(symmetric.float().mean()) < 0.3  # a corner of the box is seldom on the diagonal


def test_brightness_adds_and_contrast_scales(x):
    q = STD
    assert torch.allclose(AugmentPipe(brightness=1)(x, q), x + 0.2, atol=1e-6)
    assert torch.allclose(AugmentPipe(contrast=1)(x, q), x * 2**0.5, atol=1e-6)


def test_lumaflip_flips_gray_and_keeps_color(x):
    mean = x.mean(dim=1, keepdim=True)
    assert torch.allclose(AugmentPipe(lumaflip=1)(x, 0.8), x - 2 * mean, atol=1e-6)


def test_hue_by_a_third_of_a_turn_permutes_the_channels(x):
    y = AugmentPipe(hue=1)(x, 0.5 + 1 / 3)  # 2 pi / 3: red becomes green, green blue
    assert torch.allclose(y, x.roll(1, dims=1), atol=1e-6)


def test_saturation_scales_the_distance_from_gray(x):
    mean = x.mean(dim=1, keepdim=True)
    y = AugmentPipe(saturation=1)(x, 0.5 + math.erf(1) / 2)
    assert torch.allclose(y, mean + (x - mean) * 2, atol=1e-5)


def test_noise_has_the_deviation_that_was_asked_for():
    x = torch.zeros(2, 3, 64, 64)
    y = AugmentPipe(noise=1)(x, math.erf(1))  # sigma is its std, 0.1
    assert abs(float(y.std()) - 0.1) < 2e-3


def test_cutout_cuts_a_quarter_out_of_the_middle():
    x = torch.ones(1, 3, 32, 32)
    y = AugmentPipe(cutout=1)(x, 0.5)
    assert float(y.mean()) == 0.75
    assert float(y[..., 8:24, 8:24].abs().max()) == 0


@pytest.mark.parametrize("p, multiplier", [(0.3, 1), (0.8, 0.5), (2.0, 1)])
def test_probability(p, multiplier):
    torch.manual_seed(0)
    pipe = AugmentPipe(brightness=multiplier)
    pipe.p.fill_(p)
    changed = pipe(torch.zeros(20_000, 1, 1, 1)) != 0
    assert abs(float(changed.float().mean()) - min(p * multiplier, 1)) < 0.015


def test_the_two_rotations_together_have_probability_p():
    torch.manual_seed(0)
    pipe = AugmentPipe(rotate=1)
    pipe.p.fill_(0.4)
    ramp = torch.linspace(-1, 1, 8).expand(4000, 1, 8, 8)
    turned = (pipe(ramp) - ramp).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert abs(float(turned.float().mean()) - 0.4) < 0.03


def test_the_same_seed_gives_the_same_images_whatever_was_drawn_before(x):
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"])
    torch.manual_seed(5)
    first = pipe(x)
    pipe(x)
    torch.manual_seed(5)
    assert torch.equal(pipe(x), first)


def test_the_stream_does_not_depend_on_p(x):
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"])
    states = []
    for p in (0.0, 0.5, 1.0):
        pipe.p.fill_(p)
        torch.manual_seed(5)
        pipe(x)
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_every_derivative_of_r1_is_right():
    """R1 differentiates twice through the pipe: first and second derivatives in float64."""
    everything = dict.fromkeys((*GROUPS["bgc"], "cutout"), 1)
    pipe = AugmentPipe(**everything).double()
    x = torch.rand(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)

    def augmented(images):
        return pipe(images, 0.7).square()

    assert torch.autograd.gradcheck(augmented, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(augmented, (x,), fast_mode=True)


def test_sampling_agrees_with_torch_in_value_and_gradient():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 6, 2, dtype=torch.float64) * 2.6 - 1.3
    ours = sample_bilinear(images, grid)
    theirs = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    assert torch.equal(ours, theirs)
    weights = torch.rand_like(ours)
    gradients = [torch.autograd.grad((y * weights).sum(), images)[0] for y in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-14)
    assert torch.autograd.gradgradcheck(lambda v: sample_bilinear(v, grid).pow(3), (images,))


def test_r1_through_the_pipe_reaches_the_discriminator(x):
    torch.manual_seed(2)
    pipe = AugmentPipe(**AUGMENT_PRESETS["bgc"])
    D = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Softplus(), torch.nn.Conv2d(4, 1, 3))
    reals = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(D(pipe(reals)).sum(), reals, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in D[0].parameters())
    assert D[0].weight.grad.abs().max() > 0


def test_init_kwargs_make_the_pipe_again(x):
    pipe = AugmentPipe(xflip=0.5, imgfilter=1, imgfilter_bands=[1, 0, 1, 0], cutout_size=0.25)
    again = AugmentPipe(**pipe.init_kwargs)
    assert again.init_kwargs == pipe.init_kwargs
    assert torch.equal(pipe(x, 0.8), again(x, 0.8))


def test_p_stays_on_the_cpu_in_float32():
    pipe = AugmentPipe(xflip=1)
    pipe.p.fill_(0.25)
    pipe.to("meta")
    assert pipe.p.device.type == "cpu" and pipe.Hz_geom.device.type == "meta"
    pipe = AugmentPipe(xflip=1).half()
    assert pipe.p.dtype == torch.float32
    assert list(pipe.state_dict()) == ["p", "Hz_geom", "Hz_fbank"]


@pytest.mark.parametrize("resolution", [(1, 1), (2, 3), (7, 33)])
def test_odd_sizes_and_single_images(resolution):
    everything = dict.fromkeys((*GROUPS["bgc"], "cutout", "noise"), 1)
    y = AugmentPipe(**everything)(torch.rand(1, 1, *resolution))
    assert y.shape == (1, 1, *resolution) and y.isfinite().all()


def test_wrong_settings_and_images_are_errors(x):
    with pytest.raises(ConfigError, match="scale must be a number >= 0, not -1"):
        AugmentPipe(scale=-1)
    with pytest.raises(ConfigError, match=r"scale must be a number >= 0, not list$"):
        AugmentPipe(scale=[["x" * 100] * 9])
    with pytest.raises(ConfigError, match=r"must be 4 numbers, not 9$"):
        AugmentPipe(imgfilter_bands=[["x" * 100] * 9] * 9)
    with pytest.raises(ConfigError, match="hue must be"):
        AugmentPipe(hue=float("nan"))
    with pytest.raises(ConfigError, match="4 numbers"):
        AugmentPipe(imgfilter_bands=[1, 1])
    with pytest.raises(TypeError, match="mirror"):
        AugmentPipe(mirror=1)
    with pytest.raises(ConfigError, match="1 or 3 channels, not 2"):
        AugmentPipe()(x[:, :2])
    with pytest.raises(ConfigError, match="imgfilter needs images of more than 21 px, not 16x24"):
        AugmentPipe(imgfilter=1)(x[..., :16], 0.8)


@pytest.mark.parametrize("num_images", [1, 7, 16, 40])
def test_numbers_drawn_together_are_those_drawn_one_by_one(num_images):
    kinds = "uuunuunnu"
    torch.manual_seed(3)
    together = RandomParameters(num_images, 0.5, None, kinds)
    found = [together.uniform() if kind == "u" else together.normal(1) for kind in kinds]
    after = torch.rand(2)
    torch.manual_seed(3)
    for kind, numbers in zip(kinds, found, strict=True):
        one = torch.rand([num_images]) if kind == "u" else torch.randn([num_images])
        assert np.array_equal(numbers, one.double().numpy())
    assert torch.equal(torch.rand(2), after)


@pytest.mark.parametrize("size", [3, 4])
def test_matrix_products_are_those_of_torch(size):
    random = torch.Generator().manual_seed(0)
    shape = [8, size, size]
    a, b, c = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(3))
    expected = (a @ b @ c).numpy()
    assert np.allclose(product(a.numpy(), b.numpy(), c.numpy()), expected, rtol=1e-14, atol=1e-14)


def test_the_numbers_of_both_matrices_are_known_before():
    """'u' and 'n' in the order of the transforms: which are drawn depends on the multipliers."""
    assert first_draws(AugmentConfig(xint=1, scale=1, hue=1)) == "uuu" + "un" + "uu"
    assert first_draws(AugmentConfig(noise=1)) == ""
