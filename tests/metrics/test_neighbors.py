import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sg3flow.errors import MetricError
from sg3flow.metrics import neighborhoods
from sg3flow.metrics.estimates import BLOCKS
from sg3flow.metrics.neighborhoods import (
    density_coverage,
    density_coverage_estimates,
    memorization,
    precision_recall,
    precision_recall_estimates,
)

CPU = torch.device("cpu")


def cloud(count, seed, size=5):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(1, 4), st.integers(1, 50))
def test_blocks_change_nothing(num_real, num_gen, k, block):
    real, gen = cloud(num_real, 0), cloud(num_gen, 1)
    before, neighborhoods._BLOCK = neighborhoods._BLOCK, block
    try:
        radii = neighborhoods.neighbor_radii(real, k, CPU)
        counts = neighborhoods.balls_around(gen, real, radii, CPU)
        found, index = neighborhoods.nearest(gen, real, CPU)
    finally:
        neighborhoods._BLOCK = before
    own = (real[:, None] - real).double().norm(dim=2).fill_diagonal_(torch.inf)
    across = (gen[:, None] - real).double().norm(dim=2)
    expected = own.sort(dim=1).values[:, k - 1]
    assert torch.allclose(radii.double(), expected, atol=1e-5)
    assert torch.allclose(found.double(), across.min(dim=1).values, atol=1e-5)
    assert torch.equal(index, across.argmin(dim=1))
    assert (counts - (across <= expected).sum(dim=1)).abs().sum() <= 1  # a tie at most


def test_density_and_coverage_on_a_line():
    real = torch.tensor([[0.0], [1], [2], [10]])  # radii 1, 1, 1, 8
    gen = torch.tensor([[0.5], [3.5], [19]])
    # Balls around each generated point: 0 and 1; 10's; none. Balls reached: 0's, 1's, 10's.
    assert density_coverage(real, gen, 1) == pytest.approx((3 / 3, 3 / 4))


def test_equal_distributions_have_the_values_of_the_paper():
    density, coverage = density_coverage(cloud(3000, 0, 8), cloud(3000, 1, 8), 3)
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(1 - 2**-3, abs=0.03)


def test_an_outlier_makes_precision_high_and_density_not():
    real = torch.cat([cloud(500, 0), torch.full((1, 5), 40.0)])
    gen = cloud(500, 1) * 8 + 10
    precision, _ = precision_recall(real, gen, 3)
    density, _ = density_coverage(real, gen, 3)
    assert precision > 0.9 and density < 0.5


@pytest.mark.parametrize("estimates", [precision_recall_estimates, density_coverage_estimates])
def test_errors_are_as_large_as_the_scatter(estimates):
    real = cloud(400, 0)
    found = [estimates(real, cloud(200, seed, 5) * 0.8, 3) for seed in range(1, 25)]
    for output in (0, 1):
        scatter = np.std([pair[output].value for pair in found], ddof=1)
        told = np.mean([pair[output].standard_error for pair in found])
        assert 0.5 * scatter < told < 2.5 * scatter
    few = estimates(real, cloud(2 * BLOCKS - 1, 1), 3)
    assert few[0].standard_error is not None and few[1].standard_error is None


def test_memorization_on_a_line():
    real = torch.tensor([[0.0], [2], [4], [8]])  # distances to the nearest other one: 2, 2, 2, 4
    gen = torch.tensor([[1.0], [4.5], [13]])  # to the nearest real one: 1, 0.5, 5
    found = memorization(real, gen, num_pairs=2)
    assert found.authentic.value == pytest.approx(1 / 3)  # 5 is more than 4
    assert found.distance.value == pytest.approx((1 + 0.5 + 5) / 3 / 2.5)
    assert [(pair.generated, pair.training) for pair in found.closest] == [(1, 2), (0, 0)]


def test_copies_are_found_out():
    real = cloud(300, 0)
    gen = cloud(100, 1)
    gen[[7, 30]] = real[[200, 5]] + 1e-3
    found = memorization(real, gen, num_pairs=3)
    assert {(pair.generated, pair.training) for pair in found.closest[:2]} == {(7, 200), (30, 5)}
    distances = [pair.distance for pair in found.closest]
    assert distances == sorted(distances) and len(distances) == 3
    honest = memorization(real, cloud(100, 1), 3)
    copied = memorization(real, real[:100] + 1e-3, 3)
    assert copied.authentic.value == 0 and copied.distance.value < 0.01
    assert 0.3 < honest.authentic.value < 0.7 and 0.8 < honest.distance.value < 1.2
    assert found.authentic.value < honest.authentic.value


def test_training_sets_of_equal_pictures():
    found = memorization(torch.zeros(5, 2), torch.zeros(4, 2), 8)
    assert (found.authentic.value, found.distance.value, len(found.closest)) == (0, 0, 4)


def test_too_few_items():
    for measure in (density_coverage, precision_recall):
        with pytest.raises(MetricError, match="more than 3 items"):
            measure(torch.zeros(3, 2), torch.zeros(9, 2), 3)
    with pytest.raises(MetricError, match="more than 1 items"):
        memorization(torch.zeros(1, 2), torch.zeros(9, 2), 3)
