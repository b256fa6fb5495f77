import numpy as np
import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics.distances import (
    FeatureStats,
    RunningStats,
    _factor,
    frechet_distance,
    frechet_estimate,
)
from sg3flow.metrics.estimates import (
    BLOCKS,
    block_bounds,
    jackknife_error,
    mean_estimate,
    ratio_estimate,
)
from sg3flow.metrics.feature_collector import path_length
from sg3flow.metrics.features.inception import inception_score
from sg3flow.metrics.frechet_error import Against, quick_distance, sums_of, without
from sg3flow.metrics.polynomial_mmd import kernel_distance, kernel_estimate


def test_mean_and_ratio():
    values = np.array([1.0, 2, 3, 6])
    found = mean_estimate(values)
    assert found.value == 3 and found.standard_error == pytest.approx(values.std(ddof=1) / 2)
    # With equal denominators a ratio is a mean.
    ratio = ratio_estimate(values * 5, np.full(4, 5.0))
    assert ratio.value == 3 and ratio.standard_error == pytest.approx(found.standard_error)
    assert mean_estimate([4.0]).standard_error is None
    assert ratio_estimate([4.0], [2.0]).standard_error is None


def test_jackknife_of_a_mean_is_its_error():
    values = np.random.RandomState(0).randn(10)
    left_out = [np.delete(values, i).mean() for i in range(10)]
    assert jackknife_error(left_out) == pytest.approx(mean_estimate(values).standard_error)
    assert jackknife_error([3.0]) is None


@pytest.mark.parametrize("count", [1, 19, 20, 25, 1000])
def test_blocks_hold_everything_once(count):
    bounds = block_bounds(count)
    assert [i for start, end in bounds for i in range(start, end)] == list(range(count))
    assert len(bounds) == (BLOCKS if count >= 20 else 1)


def scatter_and_told(estimate, make):
    found = [estimate(make(np.random.RandomState(seed))) for seed in range(25)]
    scatter = np.std([each.value for each in found], ddof=1)
    return scatter, np.mean([each.standard_error for each in found])


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_error_of_a_frechet_distance_is_its_scatter(shift):
    reference = FeatureStats(1000, np.zeros(6), np.eye(6))
    scatter, told = scatter_and_told(
        lambda features: frechet_estimate(features, reference),
        lambda random: (random.randn(300, 6) + shift).astype(np.float32),
    )
    # Where the clouds are equal the distance is flat, and the jackknife errs to the safe side.
    assert 0.6 * scatter < told < (1.7 if shift else 2.5) * scatter


@pytest.mark.parametrize("size", [100, 300])
def test_the_error_of_a_kernel_distance_is_its_scatter(size):
    real = np.random.RandomState(99).randn(300, 6)
    scatter, told = scatter_and_told(
        lambda features: kernel_estimate(real, features, 20, size, seed=0),
        lambda random: random.randn(300, 6) + 0.5,
    )
    assert 0.6 * scatter < told < 1.7 * scatter


def test_estimates_have_the_values_of_the_plain_functions():
    random = np.random.RandomState(0)
    a, b = random.randn(80, 5), random.randn(90, 5).astype(np.float32)
    assert kernel_estimate(a, b, 3, 20, 1).value == kernel_distance(a, b, 3, 20, 1)
    running = RunningStats(5)
    running.add(b)
    stats, reference = running.result(), FeatureStats(9, np.ones(5), np.diag(np.arange(1.0, 6)))
    plain = frechet_distance(reference.mean, reference.cov, stats.mean, stats.cov)
    assert frechet_estimate(b, reference).value == pytest.approx(plain, rel=1e-12)
    assert frechet_estimate(b[:19], reference).standard_error is None


def stats_of(features):
    running = RunningStats(features.shape[1])
    running.add(features)
    return running.result()


def test_a_block_is_left_out_of_statistics_exactly():
    features = np.random.RandomState(0).randn(90, 5) + np.arange(90)[:, None] / 30
    factor = np.random.RandomState(1).randn(5, 3)
    whole, part, rest = (sums_of(each, factor) for each in (features, features[:20], features[20:]))
    found = without(whole, part, factor)
    assert found.count == 70
    np.testing.assert_allclose(found.mean, rest.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, rest.scatter, rtol=1e-11)
    assert found.spread == pytest.approx(rest.spread, rel=1e-12)
    stats = stats_of(features)
    np.testing.assert_allclose(whole.scatter, 90 * factor.T @ stats.cov @ factor, rtol=1e-11)
    assert whole.spread == pytest.approx(90 * np.trace(stats.cov), rel=1e-12)
    merged = RunningStats(5)
    for part in (features[:20], features[20:]):
        merged.merge(stats_of(part))
    np.testing.assert_allclose(merged.result().cov, np.cov(features.T, bias=True), rtol=1e-12)
    assert merged.result().count == 90


def test_the_distance_for_errors_is_the_distance():
    random = np.random.RandomState(0)
    sets = [random.randn(80, 5) @ random.randn(5, 5) + shift for shift in (0, 1)]
    for ddof in (0, 1):
        a, b = (stats_of(each).unbiased(ddof) for each in sets)
        exact = frechet_distance(a.mean, a.cov, b.mean, b.cov)
        against = Against(b.mean, np.trace(b.cov), _factor(b.cov), ddof)
        found = quick_distance(sums_of(sets[0], against.factor), against)
        assert found == pytest.approx(exact, rel=1e-10)


def test_singular_covariances_keep_their_error():
    random = np.random.RandomState(0)
    features = random.randn(30, 64).astype(np.float32)  # fewer than features
    running = RunningStats(64)
    running.add(random.randn(25, 64))
    found = frechet_estimate(features, running.result())
    assert np.isfinite(found.value) and 0 < found.standard_error < found.value


def test_inception_score_in_closed_form():
    # Every split sees each of 4 classes equally often, with certainty: the score is 4.
    sure = torch.eye(4).repeat(20, 1)
    assert inception_score(sure).value == pytest.approx(4)
    assert inception_score(sure).standard_error == pytest.approx(0, abs=1e-12)
    assert inception_score(torch.full((40, 4), 0.25)).value == pytest.approx(1)
    with pytest.raises(MetricError, match="at least 10 images"):
        inception_score(sure[:9])


def test_inception_score_is_the_exponential_of_a_divergence():
    """In each split exp of the mean KL(p(y|x) || p(y)) (Salimans et al. 2016)."""
    p = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=1).double()
    scores = []
    for part in p.split(4):  # 10 splits
        marginal = part.mean(dim=0)
        divergence = [(row * (row / marginal).log()).sum() for row in part]
        scores.append(float(torch.stack(divergence).mean().exp()))
    found = inception_score(p)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.standard_error == pytest.approx(mean_estimate(scores).standard_error, rel=1e-9)


def test_path_length_leaves_out_the_tails():
    lengths = np.arange(200.0)
    lengths[[0, -1]] = -1e9, 1e9
    found = path_length(lengths)
    assert found.value == pytest.approx(np.arange(1.0, 199).mean(), abs=1.0)
    assert found.standard_error == pytest.approx(lengths[2:-2].std() / 14, rel=0.05)
