import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from sg3flow.errors import MetricError
from sg3flow.metrics import RunningStats, frechet_distance


def stats_of(features, batch=1000):
    running = RunningStats(features.shape[1])
    for start in range(0, len(features), batch):
        running.add(features[start : start + batch])
    return running.result()


def by_schur(a, b):
    root = scipy.linalg.sqrtm(a.cov @ b.cov)
    offset = a.mean - b.mean
    return float(offset @ offset + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(root).real)


def test_golden_fid(golden):
    arrays = np.load(golden / "metrics.npz")
    a, b = stats_of(arrays["feats_real"]), stats_of(arrays["feats_gen"])
    found = frechet_distance(a.mean, a.cov, b.mean, b.cov)
    assert found == pytest.approx(float(arrays["fid"]), rel=1e-12)


def test_gaussians_in_closed_form():
    # Commuting covariances: |m|^2 + sum of (s_a - s_b)^2.
    rotation = scipy.stats.special_ortho_group.rvs(5, random_state=0)
    a, b = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 2, 1, 0.5, 7])
    mean = np.arange(5.0)
    found = frechet_distance(
        mean, rotation @ np.diag(a**2) @ rotation.T, mean + 1, rotation @ np.diag(b**2) @ rotation.T
    )
    assert found == pytest.approx(5 + ((a - b) ** 2).sum(), rel=1e-12)


def test_equal_sets_are_at_zero():
    stats = stats_of(np.random.RandomState(0).randn(50, 20) * 100)
    distance = frechet_distance(stats.mean, stats.cov, stats.mean, stats.cov)
    assert 0 <= distance < 1e-9 * np.trace(stats.cov)


@pytest.mark.parametrize("counts", [(400, 300), (400, 30), (30, 25)])
def test_equals_matrix_square_root(counts):
    random = np.random.RandomState(1)
    mix = random.randn(64, 64)
    a = stats_of(random.randn(counts[0], 64) @ mix)
    b = stats_of(random.randn(counts[1], 64) @ mix + 0.5)
    found = frechet_distance(a.mean, a.cov, b.mean, b.cov)
    assert found == pytest.approx(by_schur(a, b), rel=1e-6)


def test_orthogonal_supports_share_nothing():
    # The root of a product of covariances that live in different directions is exactly zero.
    a, b = np.diag([3.0, 0, 0, 0]), np.diag([0, 0, 5.0, 0])
    zero = np.zeros(4)
    assert frechet_distance(zero, a, zero, b) == pytest.approx(8, rel=1e-14)
    assert frechet_distance(zero, a * 0, zero, b) == pytest.approx(5, rel=1e-14)


def test_refuses_shapes_and_values_that_do_not_fit():
    mean, cov = np.zeros(3), np.eye(3)
    with pytest.raises(MetricError, match=r"two means \[F\]"):
        frechet_distance(mean, cov, np.zeros(2), np.eye(2))
    with pytest.raises(MetricError, match="not finite"):
        frechet_distance(mean, cov * np.nan, mean, cov)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.floats(-1e4, 1e4))
def test_running_stats_do_not_depend_on_the_split(cuts, offset):
    features = (np.random.RandomState(2).randn(40, 6) + offset).astype(np.float32)
    running = RunningStats(6)
    for part in np.split(features, sorted(cuts)):
        running.add(part)
    found, exact = running.result(), features.astype(np.longdouble)
    assert found.count == 40
    assert_allclose(found.mean, exact.mean(axis=0).astype(float), rtol=1e-14, atol=1e-14)
    centered = (exact - exact.mean(axis=0)).astype(float)
    assert_allclose(found.cov, centered.T @ centered / 40, rtol=1e-9, atol=1e-12)


def test_running_stats_refuse_other_features_and_nothing():
    running = RunningStats(4)
    with pytest.raises(MetricError, match="there are no features"):
        running.result()
    with pytest.raises(MetricError, match=r"expected features \[N, 4\], found \(2, 3\)"):
        running.add(np.zeros((2, 3)))
