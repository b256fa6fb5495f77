"""The losses lpips and vgg with VGG16 of random weights: formula, gradients, missing weights."""

import pytest
import torch

from sg3flow.errors import ConfigError, MetricError
from sg3flow.latent import image_distances
from sg3flow.latent.image_distances import PixelDistance, open_distance
from sg3flow.metrics.features import vgg
from sg3flow.metrics.features.vgg import VGG16, Lpips

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = VGG16(fully_connected=False)
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(parameter)
    return network.eval().requires_grad_(False)


@pytest.fixture
def heads(network, monkeypatch):
    found = [torch.rand(1, width, 1, 1) for width in (64, 128, 256, 512, 512)]
    monkeypatch.setattr(image_distances, "load_vgg", lambda fully_connected: network)
    monkeypatch.setattr(image_distances, "load_heads", lambda: found)
    return found


def images(side):
    return torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def between(distance, a, b):
    return distance.between(distance.features(a), distance.features(b))


def test_lpips_is_the_metric_and_vgg_has_no_heads(network, heads):
    a, b = images(32)
    lpips, plain = (open_distance(name, CPU, 32) for name in ("lpips", "vgg"))
    assert torch.equal(between(lpips, a, b), Lpips(network, heads, CPU)(a, b)[0])
    ones = [torch.ones_like(head) for head in heads]
    torch.testing.assert_close(between(plain, a, b), Lpips(network, ones, CPU)(a, b)[0])
    assert between(plain, a, a) == 0


def test_a_step_against_the_gradient_comes_nearer(heads):
    a, b = images(32)
    distance = open_distance("lpips", CPU, 32)
    a.requires_grad_()
    before = between(distance, a, b)
    (gradient,) = torch.autograd.grad(before, a)
    assert gradient.abs().max() > 0
    with torch.no_grad():
        after = between(distance, a - 1e-2 * gradient / gradient.norm(), b)
    assert after < before


@pytest.mark.parametrize("factor", [2, 4])
def test_large_images_are_averaged_down_to_256_pixels(heads, factor):
    distance = open_distance("vgg", CPU, 256 * factor)
    seen = []
    distance._lpips = type("Seen", (), {"features": staticmethod(seen.append)})
    img = images(256 * factor)[0]
    distance.features(img)
    mean = img.reshape(1, 3, 256, factor, 256, factor).mean(dim=(3, 5))
    torch.testing.assert_close(seen[0], mean)


@pytest.mark.parametrize("loss", ["lpips", "vgg"])
def test_missing_weights_are_one_sentence(tmp_path, monkeypatch, loss):
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path))
    for name in ("VGG_URL", "HEADS_URL"):
        monkeypatch.setattr(vgg, name, "file:///nowhere/weights.pth")
    with pytest.raises(MetricError) as caught:
        open_distance(loss, CPU, 32)
    for words in (f"--loss {loss} needs weights", "/nowhere/weights.pth", "--loss pixels"):
        assert words in str(caught.value)
    assert "fd_random" not in str(caught.value)


def test_losses_that_cannot_be_had_are_refused():
    with pytest.raises(ConfigError, match="--loss vgg needs images of at least 32 pixels"):
        open_distance("vgg", CPU, 16)
    with pytest.raises(ConfigError, match="loss must be one of pixels, lpips, vgg, not 'ssim'"):
        open_distance("ssim", CPU, 64)
    assert isinstance(open_distance("pixels", CPU, 8), PixelDistance)
