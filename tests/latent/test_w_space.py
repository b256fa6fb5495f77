"""Whitened coordinates of w: mean, directions, conditions."""

import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.latent.w_space import WSpace, sample_w_space


def samples_of(G, seed, count):
    z = np.random.RandomState(seed).standard_normal((count, G.z_dim))
    return G.mapping(torch.from_numpy(z).float(), None)[:, 0].double()


def test_w_has_mean_0_and_variance_1_in_its_coordinates(small_generator):
    G = small_generator()
    space, ws = (
        sample_w_space(G, np.random.RandomState(3), [None], count=2500),
        samples_of(G, 3, 2500),
    )
    torch.testing.assert_close(space.mean[0, 0].double(), ws.mean(dim=0), rtol=0, atol=1e-6)
    u = torch.linalg.solve(space.basis.double(), (ws - ws.mean(dim=0)).T)
    identity = torch.eye(G.w_dim, dtype=torch.float64)
    torch.testing.assert_close(u @ u.T / 2500, identity, rtol=0, atol=1e-3)


def test_a_coordinate_moves_w_along_its_direction():
    space = WSpace(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[3.0, 0.0], [4.0, 0.5]]))
    found = space.at(torch.tensor([[[2.0, -1.0], [0.0, 0.0]]]))
    assert found.tolist() == [[[7.0, 9.5], [1.0, 2.0]]]


def test_directions_that_w_never_takes_stay_short(small_generator):
    G = small_generator()
    ws = lambda z, c: G.mapping(z, c) * torch.eye(G.w_dim)[0]  # noqa: E731
    flat = type("Flat", (), {"mapping": staticmethod(ws), "z_dim": G.z_dim, "c_dim": 0})()
    flat.parameters = G.parameters
    lengths = sample_w_space(flat, np.random.RandomState(0), [None], count=500).basis.norm(dim=0)
    assert lengths[-1] > 0.1
    torch.testing.assert_close(lengths[:-1], lengths[-1:].mul(1e-4).expand(G.w_dim - 1))


def test_statistics_take_the_conditions_in_turn(small_generator):
    G = small_generator(c_dim=2)
    one, other, both = (
        sample_w_space(G, np.random.RandomState(0), each, count=500).mean
        for each in ([0], [1], [0, 1])
    )
    assert (one - other).abs().max() > 0.1
    torch.testing.assert_close(both, (one + other) / 2, rtol=0, atol=0.2)
    with pytest.raises(ConfigError, match="class must be from 0 to 1"):
        sample_w_space(G, np.random.RandomState(0), [2], count=5)
