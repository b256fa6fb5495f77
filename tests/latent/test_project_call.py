"""``sg3flow.project``: the result of the command, and what a wrong argument says."""

import numpy as np
import pytest
import torch
from PIL import Image

import sg3flow
from sg3flow.errors import ConfigError, DataError
from sg3flow.rendering.conditions import TrainingLabels
from sg3flow.rendering.images import Model


@pytest.fixture(scope="module")
def make(small_generator):
    def made(c_dim=0, **options):
        network = small_generator("stylegan2", c_dim=c_dim, **options)
        model = Model(network, "toy", TrainingLabels(c_dim), ["cat", "dog"][:c_dim])
        return sg3flow.LoadedGenerator(model, "toy")

    return made


@pytest.fixture(scope="module")
def G(make):
    return make()


PIXELS = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)


def test_a_path_an_image_and_pixels_give_one_result(G, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    found = [
        sg3flow.project(G, target, steps=3)
        for target in (tmp_path / "photo.png", Image.fromarray(PIXELS), PIXELS)
    ]
    first = found[0]
    assert first.w.shape == (G.num_ws, G.w_dim) and first.w.dtype == np.float32
    assert all(np.array_equal(first.w, each.w) for each in found)
    assert first.image == G.from_w(first.w) and first.generator is G
    assert first.target.size == (16, 16)
    error = np.square(np.asarray(first.image, float) - np.asarray(first.target, float)).mean()
    assert first.psnr == pytest.approx(10 * np.log10(255**2 / error))


def test_steps_are_shown_and_tuning_gives_a_network_of_its_own(G):
    seen = []
    before = {name: value.clone() for name, value in G.network.state_dict().items()}
    found = sg3flow.project(G, PIXELS, steps=2, pti_steps=3, pti_lr=3e-3, on_step=seen.append)
    assert [step.step for step in seen] == [1, 2, 1, 2, 3]
    assert found.generator is not G and found.generator.from_w(found.w) == found.image
    plain = sg3flow.project(G, PIXELS, steps=2)
    assert found.psnr > plain.psnr and np.array_equal(found.w, plain.w)
    assert all(torch.equal(before[k], v) for k, v in G.network.state_dict().items())


def test_classes_by_name_and_gray(make):
    labeled = make(c_dim=2)
    by_name, by_number = (
        sg3flow.project(labeled, PIXELS, steps=1, class_=each).w for each in ("dog", 1)
    )
    assert np.array_equal(by_name, by_number)
    assert not np.array_equal(sg3flow.project(labeled, PIXELS, steps=1, class_=0).w, by_name)
    gray = sg3flow.project(make(img_channels=1), PIXELS[:, :, 0], steps=1)
    assert gray.image.mode == gray.target.mode == "L"


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        (PIXELS.astype(float), {}, "target must be a path, a Pillow image, or pixels uint8"),
        (PIXELS[:0], {}, "target must be"),
        (3, {}, "target must be"),
        (PIXELS, {"steps": 0}, "project.steps"),
        (PIXELS, {"steps": "many"}, "project.steps"),
        (PIXELS, {"loss": "ssim"}, "project.loss"),
        (PIXELS, {"class_": 1}, "unconditional"),
        (PIXELS, {"seed": -1}, "project.seed"),
    ],
)
def test_wrong_arguments(G, target, arguments, words):
    with pytest.raises(ConfigError, match=words):
        sg3flow.project(G, target, **arguments)


def test_wrong_photos_and_no_generator(G, tmp_path):
    with pytest.raises(DataError, match="cannot read the target"):
        sg3flow.project(G, tmp_path / "none.png")
    with pytest.raises(ConfigError, match=r"G must be a generator that sg3flow\.load gave"):
        sg3flow.project(G.network, PIXELS)
