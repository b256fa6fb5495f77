import numpy as np
import pytest
import torch

from sg3flow.distributed import ALONE
from sg3flow.errors import MetricError
from sg3flow.metrics.feature_collector import FeatureCollector
from sg3flow.metrics.generation import generate_images, latent_batches


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


def gathered(batches):
    z, c = zip(*batches, strict=True)
    return torch.cat(z), torch.cat(c)


@pytest.mark.parametrize("batch", [1, 7, 256, 5000])
def test_inputs_do_not_depend_on_batch_or_count(batch):
    z, c = gathered(latent_batches(Plain(4), Labels(), 1500, batch, seed=3))
    fewer_z, fewer_c = gathered(latent_batches(Plain(4), Labels(), 1100, 64, seed=3))
    assert z.shape == (1500, 3) and c.shape == (1500, 4)
    assert torch.equal(z[:1100], fewer_z) and torch.equal(c[:1100], fewer_c)


def test_the_seed_decides_and_labels_follow_the_data():
    z, c = gathered(latent_batches(Plain(4), Labels(), 800, 64, seed=0))
    other, _ = gathered(latent_batches(Plain(4), Labels(), 800, 64, seed=1))
    assert not torch.equal(z, other)
    assert abs(float(z.mean())) < 0.1 and abs(float(z.std()) - 1) < 0.1
    assert torch.equal(c.sum(dim=1), torch.ones(800))
    assert (c.mean(dim=0) - 0.25).abs().max() < 0.06


def test_without_labels_c_is_empty():
    _, c = gathered(latent_batches(Plain(0), Labels(), 5, 2, seed=0))
    assert c.shape == (5, 0)


def test_refuses_labels_of_another_length():
    with pytest.raises(MetricError, match="labels of length 9, the data has 4"):
        next(latent_batches(Plain(9), Labels(), 5, 2, seed=0))


def test_refuses_values_that_are_not_finite():
    z = torch.zeros(2, 3)
    assert generate_images(Plain(), z, z[:, :0]).unique().tolist() == [128]
    with pytest.raises(MetricError, match="not finite"):
        generate_images(Plain(fill=float("nan")), z, z[:, :0])


def test_single_pictures_are_those_that_were_judged(tiny_generator, small_set):
    G = tiny_generator(c_dim=0)
    studio = FeatureCollector(G, small_set, 3, 8, torch.device("cpu"), ALONE)
    numbers = [1025, 2, 0, 1024, 2]
    batches = latent_batches(G, small_set, 1026, 400, seed=3)
    judged = [generate_images(G, z[:3], c[:3]) for z, c in batches if len(z) != 224]
    # Batches of 400, 400, 224, and the 2 of the next chunk.
    expected = {0: judged[0][0], 2: judged[0][2], 1024: judged[2][0], 1025: judged[2][1]}
    for number, found in zip(numbers, studio.pictures(numbers), strict=True):
        difference = expected[number].permute(1, 2, 0).int().numpy() - found.astype(int)
        assert abs(difference).max() <= 1
