"""Pictures of seeds: independence, truncation, classes, placement, rounding."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.rendering.images import png_bytes, render_image
from sg3flow.rendering.seeds import RenderOptions


def test_a_seed_gives_the_picture_of_the_plain_formula(generator):
    z = torch.from_numpy(np.random.RandomState(5).randn(1, generator.z_dim))
    with torch.no_grad():
        img = generator(z.float(), torch.zeros(1, 0), truncation_psi=0.7, noise_mode="const")
    expected = (img.permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0].numpy()
    np.testing.assert_array_equal(render_image(generator, 5, RenderOptions(psi=0.7)), expected)


def test_a_picture_does_not_depend_on_what_was_rendered_before(generator):
    alone = render_image(generator, 3, RenderOptions())
    render_image(generator, 4, RenderOptions(psi=0.3, translate=(0.2, 0.1), rotate=30))
    np.testing.assert_array_equal(render_image(generator, 3, RenderOptions()), alone)


def test_seeds_and_psi_change_the_picture_and_psi_0_is_the_average(generator):
    assert (
        render_image(generator, 1, RenderOptions()) != render_image(generator, 2, RenderOptions())
    ).any()
    average = render_image(generator, 1, RenderOptions(psi=0))
    np.testing.assert_array_equal(render_image(generator, 2, RenderOptions(psi=0)), average)


def test_values_that_are_not_finite_are_no_picture(make_generator):
    G = make_generator()
    G.mapping.w_avg.fill_(math.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        render_image(G, 1, RenderOptions(psi=0.5))


def test_translation_moves_the_picture(make_generator):
    G = make_generator(img_resolution=32)
    still = render_image(G, 0, RenderOptions()).astype(float)
    moved = render_image(G, 0, RenderOptions(translate=(0.25, 0.0))).astype(float)
    shifted = np.abs(moved[:, 12:-4] - still[:, 4:-12]).mean()
    assert shifted < 0.5 * np.abs(moved[:, 12:-4] - still[:, 12:-4]).mean()


class _Untransformed(torch.nn.Module):
    """Wraps a network so that it has no transform, as StyleGAN2 has none."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.z_dim, self.c_dim = network.z_dim, network.c_dim
        self.mapping = network.mapping

    def synthesis(self, ws, noise_mode):
        img = self.network.synthesis(ws, noise_mode=noise_mode)
        return img + 0.3 * torch.randn_like(img) if noise_mode == "random" else img


def test_a_network_without_a_transform_refuses_only_when_asked(generator):
    G = _Untransformed(generator)
    np.testing.assert_array_equal(
        render_image(G, 1, RenderOptions()), render_image(generator, 1, RenderOptions())
    )
    with pytest.raises(ConfigError, match="only StyleGAN3"):
        render_image(G, 1, RenderOptions(rotate=10))


def test_random_noise_is_the_seeds_own_and_leaves_the_global_state_alone(generator):
    G = _Untransformed(generator)
    state = torch.get_rng_state()
    first = render_image(G, 1, RenderOptions(noise_mode="random"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    np.testing.assert_array_equal(render_image(G, 1, RenderOptions(noise_mode="random")), first)
    assert (first != render_image(G, 1, RenderOptions())).any()


def test_classes_are_checked(make_generator, generator):
    labeled = make_generator(c_dim=3)
    assert (
        render_image(labeled, 1, RenderOptions(), 0) != render_image(labeled, 1, RenderOptions(), 2)
    ).any()
    for class_index in (None, 3, -1):
        with pytest.raises(ConfigError, match="0 to 2"):
            render_image(labeled, 1, RenderOptions(), class_index)
    with pytest.raises(ConfigError, match="unconditional"):
        render_image(generator, 1, RenderOptions(), 0)


@pytest.mark.parametrize(
    "bad", [{"psi": math.nan}, {"rotate": math.inf}, {"translate": (0, math.nan)}]
)
def test_a_look_holds_finite_numbers(bad):
    with pytest.raises(ConfigError, match="finite"):
        RenderOptions(**bad)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_bytes_hold_the_pixels_and_our_mark(channels):
    image = np.random.RandomState(0).randint(0, 256, (8, 8, channels), np.uint8)
    content = png_bytes(image)
    assert content == png_bytes(image.copy())
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == {1: "L", 3: "RGB"}[channels]
        assert picture.info["Software"] == "sg3flow"
        np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)
