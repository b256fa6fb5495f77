import math

import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.layer_schedule import ScheduleArguments, plan_layers
from sg3flow.networks.stylegan3 import SynthesisInput, input_transform, motion_matrix, placed

_SMALL = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}


@pytest.mark.parametrize(("shift", "degrees"), [((0.3, -0.1), 0), ((0, 0), 90), ((0.1, 0.2), 30)])
def test_the_matrix_is_the_inverse_of_the_motion(shift, degrees):
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    expected = [[c, s, shift[0]], [-s, c, shift[1]], [0, 0, 1]]
    inverse = np.linalg.inv(motion_matrix(shift, angle).numpy())
    np.testing.assert_allclose(inverse, expected, atol=1e-12)


def test_the_transform_is_given_back_even_after_an_error():
    G = StyleGAN3Generator(**_SMALL, channel_base=64, channel_max=4, num_layers=4)
    transform = input_transform(G)
    transform.copy_(motion_matrix((0.1, 0.2), 0.3))
    before, wanted = transform.clone(), motion_matrix((0.5, 0), 0.2)
    with pytest.raises(RuntimeError, match="inside"), placed(G, wanted):
        assert torch.equal(transform, wanted.float())
        raise RuntimeError("inside")
    assert torch.equal(transform, before)


def test_stylegan2_cannot_be_placed():
    G = StyleGAN2Generator(**_SMALL, channel_base=64, channel_max=4)
    assert input_transform(G) is None
    with pytest.raises(ConfigError, match="only StyleGAN3"), placed(G, torch.eye(3)):
        raise AssertionError("inside")


def fourier_features(layer: SynthesisInput, w: torch.Tensor) -> torch.Tensor:
    """sin(2 pi (f . M p + phase)) of every channel and pixel, mixed by the weights (App. F).

    The position p is in image widths from the center; M is the user's transform, then the
    translation and the rotation of w.
    """
    size, rate, count = layer.size, layer.sampling_rate, len(layer.freqs)
    centers = (np.arange(size) + 0.5 - size / 2) / rate
    y, x = np.meshgrid(centers, centers, indexing="ij")
    points = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    found = []
    for sample in w:
        affine = layer.affine.weight.numpy() @ sample.numpy() / math.sqrt(len(sample))
        cos, sin, tx, ty = (t := affine + layer.affine.bias.numpy()) / np.hypot(t[0], t[1])
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        translation = np.array([[1, 0, -tx], [0, 1, -ty], [0, 0, 1]])
        matrix = rotation @ translation @ layer.transform.numpy()
        moved = matrix @ points
        phases = layer.freqs.numpy() @ moved[:2] + layer.phases.numpy()[:, None]
        radii = np.linalg.norm(layer.freqs.numpy() @ matrix[:2, :2], axis=1)
        fade = 1 - (radii - layer.bandwidth) / (rate / 2 - layer.bandwidth)
        waves = np.sin(2 * np.pi * phases) * fade.clip(0, 1)[:, None]
        mixed = layer.weight.numpy() @ waves / math.sqrt(count)
        found.append(mixed.reshape(count, size, size))
    return torch.from_numpy(np.stack(found))


@torch.no_grad()
def test_the_input_is_fourier_features_of_transformed_positions():
    torch.manual_seed(0)
    layer = SynthesisInput(5, plan_layers(ScheduleArguments(16, 3, 64, 6))).double()
    w = torch.randn(2, 5, dtype=torch.float64)
    still = layer(w)
    assert torch.equal(still[0], still[1])  # w begins without effect
    torch.testing.assert_close(still, fourier_features(layer, w))
    layer.affine.weight.normal_()
    layer.transform.copy_(motion_matrix((0.1, -0.2), 0.5))
    layer.transform[:2, :2] *= torch.tensor([[1.5, 1.0], [1.0, 2.5]])  # beyond the bandwidth
    torch.testing.assert_close(layer(w), fourier_features(layer, w))
    assert float((layer.freqs @ layer.transform[:2, :2]).norm(dim=1).max()) > layer.bandwidth
