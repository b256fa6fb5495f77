import math

import numpy as np
import pytest

from sg3flow.errors import MetricError
from sg3flow.metrics import vendi
from sg3flow.metrics.vendi import vendi_estimate


def drawn(seed, count, width):
    scales = 1 / np.arange(1, width + 1)
    return ((np.random.RandomState(seed).randn(count, width) + 0.5) * scales).astype(np.float32)


@pytest.mark.parametrize("width", [5, 60])  # fewer and more features than images
def test_equal_images_count_as_one(width):
    same = np.tile(drawn(0, 1, width), (30, 1)) * np.arange(1, 31, dtype=np.float32)[:, None]
    found = vendi_estimate(same)
    assert found.value == pytest.approx(1) and found.standard_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("count", "width"), [(30, 30), (30, 50)])
def test_orthogonal_images_count_each(count, width):
    assert vendi_estimate(np.eye(count, width, dtype=np.float32) * 3).value == pytest.approx(count)


def test_groups_of_equal_images():
    # Shares 1/2, 1/4, 1/4 of three orthogonal kinds: entropy 1.5 log 2.
    kinds = np.eye(3, dtype=np.float32)[[0, 0, 1, 2] * 10]
    assert vendi_estimate(kinds).value == pytest.approx(2**1.5)


def test_two_images_at_an_angle():
    # Eigenvalues of K / 2 are (1 + c) / 2 and (1 - c) / 2.
    pair = np.array([[1, 0, 0], [0.6, 0.8, 0]], np.float32)
    shares = np.array([0.8, 0.2])
    found = vendi_estimate(pair)
    assert found.value == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert found.standard_error is None


def test_both_matrices_give_the_same(monkeypatch):
    monkeypatch.setattr(vendi, "_ROWS", 16)  # blocks, the last of them smaller
    rows = vendi._Directions(drawn(1, 40, 40))
    by_features, by_images = vendi._by_features(rows), vendi._by_images(rows)
    for one, other in zip(by_features, by_images, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7)


@pytest.mark.parametrize(("count", "width"), [(30, 6), (24, 40)])
def test_terms_are_the_derivative_by_the_weight_of_an_image(count, width):
    features = drawn(2, count, width)
    units = features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)

    def score(weights):
        shares = np.linalg.eigvalsh((units.T * weights) @ units)
        shares = shares[shares > 1e-12]
        return math.exp(-(shares * np.log(shares)).sum())

    found, equal, step = vendi_estimate(features), np.full(count, 1 / count), 1e-5
    assert found.value == pytest.approx(score(equal))
    for item in range(count):
        toward = np.eye(count)[item] - equal
        slope = (score(equal + step * toward) - score(equal - step * toward)) / (2 * step)
        assert found.terms[item] * math.sqrt(count * (count - 1)) == pytest.approx(slope, rel=1e-4)
    assert found.standard_error == pytest.approx(math.sqrt(np.square(found.terms).sum()))


@pytest.mark.parametrize(("count", "width"), [(200, 20), (80, 100)])
def test_the_error_is_the_scatter(count, width):
    found = [vendi_estimate(drawn(seed, count, width)) for seed in range(40)]
    scatter = np.std([each.value for each in found], ddof=1)
    assert 0.7 < np.mean([each.standard_error for each in found]) / scatter < 1.4


def test_refuses_what_has_no_direction():
    features = drawn(0, 30, 4)
    features[7] = 0
    with pytest.raises(MetricError, match="only features of 0"):
        vendi_estimate(features)
    with pytest.raises(MetricError, match="of some images, found"):
        vendi_estimate(features[:0])
