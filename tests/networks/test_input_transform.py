import math

import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.stylegan3 import input_transform, motion_matrix, placed

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
