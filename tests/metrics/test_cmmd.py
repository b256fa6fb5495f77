import math

import numpy as np
import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics import gaussian_mmd as cmmd
from sg3flow.metrics.gaussian_mmd import gaussian_mmd, mean_kernel

WIDTH, SIGMA, SHIFT = 64, 10.0, 2.0
# Items of two Gaussians N(0, I) differ by N(0, 2 I), so that the mean kernel is this.
WITHIN = (1 + 2 / SIGMA**2) ** (-WIDTH / 2)
POPULATION = 2 * WITHIN * (1 - math.exp(-(SHIFT**2) / (2 * (SIGMA**2 + 2))))


def gaussian(seed, count, shift=0.0):
    x = np.random.RandomState(seed).randn(count, WIDTH)
    return torch.from_numpy((x + shift / math.sqrt(WIDTH)).astype(np.float32))


def test_closed_form_of_two_gaussians():
    assert pytest.approx(20.6065, abs=1e-4) == 1000 * POPULATION
    size = 250
    found = [
        gaussian_mmd(gaussian(2 * i, size), gaussian(2 * i + 1, size, SHIFT), SIGMA, scale=1000)
        for i in range(40)
    ]
    values = np.array([each.value for each in found])
    # Each item counts with itself, too, as published.
    expected = 1000 * (POPULATION + 2 * (1 - WITHIN) / size)
    assert values.mean() == pytest.approx(expected, abs=3 * values.std() / math.sqrt(40))
    assert values.std() / math.sqrt(40) < 0.02 * expected


def test_sums_in_full():
    a, b = gaussian(0, 7).double(), gaussian(1, 5, SHIFT).double()

    def kernel(x, y):
        return math.exp(-float((x - y).square().sum()) / (2 * SIGMA**2))

    means = [
        sum(kernel(x, y) for x in one for y in other) / (len(one) * len(other))
        for one, other in ((a, a), (b, b), (a, b))
    ]
    found = gaussian_mmd(a, b, SIGMA)
    assert found.value == pytest.approx(means[0] + means[1] - 2 * means[2], rel=1e-4)
    assert found.standard_error is None


def test_blocks_and_a_known_part_change_nothing(monkeypatch):
    a, b = gaussian(0, 70), gaussian(1, 50, SHIFT)
    whole = gaussian_mmd(a, b, SIGMA)
    monkeypatch.setattr(cmmd, "_BLOCK", 16)
    parts = gaussian_mmd(a, b, SIGMA, within_real=mean_kernel(a, SIGMA))
    assert parts.value == pytest.approx(whole.value, rel=1e-4)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-4)
    np.testing.assert_allclose(parts.terms, whole.terms, rtol=1e-2, atol=1e-8)


def test_unit_vectors_keep_their_digits():
    """Kernels of unit vectors are near 1; float32 would lose digits of the distance."""
    a, b = (torch.nn.functional.normalize(gaussian(seed, 60) + 6, dim=1) for seed in (0, 1))

    def mean(x, y):
        squares = (x.double()[:, None] - y.double()).square().sum(dim=2)
        return float(torch.exp(-squares / (2 * SIGMA**2)).mean())

    exact = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    assert gaussian_mmd(a, b, SIGMA).value == pytest.approx(exact, rel=2e-5)
    assert gaussian_mmd(a, a, SIGMA).value == 0


@pytest.mark.parametrize("shift", [0.0, SHIFT])
def test_the_error_is_the_scatter(shift):
    real = gaussian(1000, 300)
    found = [gaussian_mmd(real, gaussian(seed, 200, shift), SIGMA) for seed in range(40)]
    scatter = np.std([each.value for each in found], ddof=1)
    assert 0.7 < np.mean([each.standard_error for each in found]) / scatter < 1.4
    terms = found[0].terms
    assert math.sqrt(np.square(terms).sum()) == pytest.approx(found[0].standard_error)


def test_terms_are_what_more_of_an_image_adds():
    real, gen = gaussian(0, 40), gaussian(1, 30, SHIFT)
    found = gaussian_mmd(real, gen, SIGMA)
    more = gaussian_mmd(real, torch.cat([gen, gen[found.terms.argmax()][None]]), SIGMA)
    less = gaussian_mmd(real, torch.cat([gen, gen[found.terms.argmin()][None]]), SIGMA)
    assert less.value < found.value < more.value


def test_refuses_what_it_cannot_compare():
    with pytest.raises(MetricError, match="two sets of features"):
        gaussian_mmd(torch.zeros(5, 3), torch.zeros(5, 4), SIGMA)
    with pytest.raises(MetricError, match="two sets of features"):
        gaussian_mmd(torch.zeros(0, 3), torch.zeros(5, 3), SIGMA)
