import numpy as np
import pytest
import torch

from sg3flow.distributed import ALONE
from sg3flow.errors import MetricError
from sg3flow.metrics.feature_collector import FeatureCollector
from sg3flow.metrics.generation import CHUNK, Latents, generate_images


class Labels:
    num_images, label_dim = 20, 4

    def label(self, index):
        return np.eye(4, dtype=np.float32)[index % 4]


class Plain(torch.nn.Module):
    def __init__(self, c_dim=0, fill=0.0):
        super().__init__()
        self.z_dim, self.c_dim, self.fill = 3, c_dim, fill
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z, c, truncation_psi, noise_mode):
        assert truncation_psi == 1 and noise_mode == "const"
        return torch.full((len(z), 3, 2, 2), self.fill)


def inputs(count, seed, c_dim=4):
    """The inputs of ``count`` images, chunk by chunk."""
    latents = Latents(Plain(c_dim), Labels(), seed)
    starts = range(0, count, CHUNK)
    chunks = [latents.chunk(start // CHUNK, min(count - start, CHUNK)) for start in starts]
    z, c = zip(*chunks, strict=True)
    return torch.cat(z), torch.cat(c)


def test_inputs_do_not_depend_on_the_count():
    z, c = inputs(1500, seed=3)
    assert z.shape == (1500, 3) and c.shape == (1500, 4)
    for count in (5, 1024, 1100):
        fewer_z, fewer_c = inputs(count, seed=3)
        assert torch.equal(z[:count], fewer_z) and torch.equal(c[:count], fewer_c)


def test_chunks_may_be_skipped():
    z, c = inputs(1500, seed=3)
    second_z, second_c = Latents(Plain(4), Labels(), 3).chunk(1, 1500 - CHUNK)
    assert torch.equal(z[CHUNK:], second_z) and torch.equal(c[CHUNK:], second_c)


def test_the_seed_decides_and_labels_follow_the_data():
    z, c = inputs(800, seed=0)
    other, _ = inputs(800, seed=1)
    assert not torch.equal(z, other)
    assert abs(float(z.mean())) < 0.1 and abs(float(z.std()) - 1) < 0.1
    assert torch.equal(c.sum(dim=1), torch.ones(800))
    assert (c.mean(dim=0) - 0.25).abs().max() < 0.06


def test_without_labels_c_is_empty():
    _, c = inputs(5, seed=0, c_dim=0)
    assert c.shape == (5, 0)


def test_refuses_labels_of_another_length():
    with pytest.raises(MetricError, match="labels of length 9, the data has 4"):
        Latents(Plain(9), Labels(), 0)


def test_refuses_values_that_are_not_finite():
    z = torch.zeros(2, 3)
    assert generate_images(Plain(), z, z[:, :0]).unique().tolist() == [128]
    with pytest.raises(MetricError, match="not finite"):
        generate_images(Plain(fill=float("nan")), z, z[:, :0])


def test_single_pictures_are_those_that_were_judged(tiny_generator, small_set):
    G = tiny_generator(c_dim=0)
    studio = FeatureCollector(G, small_set, 3, 8, torch.device("cpu"), ALONE)
    numbers = [1025, 2, 0, 1024, 2]
    latents = Latents(G, small_set, seed=3)
    z, c = latents.chunk(0, CHUNK)
    next_z, next_c = latents.chunk(1, 2)
    judged = {0: (z[0], c[0]), 2: (z[2], c[2]), 1024: (next_z[0], next_c[0])}
    judged[1025] = (next_z[1], next_c[1])
    expected = {n: generate_images(G, z[None], c[None])[0] for n, (z, c) in judged.items()}
    for number, found in zip(numbers, studio.pictures(numbers), strict=True):
        difference = expected[number].permute(1, 2, 0).int().numpy() - found.astype(int)
        assert abs(difference).max() <= 1
