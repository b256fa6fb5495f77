import itertools

import numpy as np
import pytest

from sg3flow.errors import MetricError
from sg3flow.metrics import kernel_distance
from sg3flow.metrics import polynomial_mmd as mmd


def test_golden_single_subset(golden):
    arrays = np.load(golden / "metrics.npz")
    found = kernel_distance(arrays["feats_real"][:500], arrays["feats_gen"], 1, 500, seed=3)
    assert found == pytest.approx(float(arrays["kid_one_subset_all"]), rel=1e-12)


def test_sums_in_full():
    random = np.random.RandomState(0)
    a, b = random.randn(6, 3), random.randn(6, 3) + 1

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within = [
        sum(kernel(s[i], s[j]) for i, j in itertools.permutations(range(6), 2)) / 30 for s in (a, b)
    ]
    across = sum(kernel(x, y) for x in a for y in b) / 36
    assert kernel_distance(a, b, 4, 6, seed=0) == pytest.approx(sum(within) - 2 * across)


def test_seed_decides_the_subsets():
    random = np.random.RandomState(0)
    a, b = random.randn(80, 5), random.randn(90, 5)
    assert kernel_distance(a, b, 3, 20, seed=1) == kernel_distance(a, b, 3, 20, seed=1)
    assert kernel_distance(a, b, 3, 20, seed=1) != kernel_distance(a, b, 3, 20, seed=2)


def test_subsets_are_drawn_from_the_whole_of_both_sets():
    features = np.sort(np.random.RandomState(0).randn(60, 1), axis=0)
    # The first halves of sorted sets are far from the whole; random halves are not.
    half = abs(kernel_distance(features[:30], features, 1, 60, seed=0))
    assert abs(kernel_distance(features, features, 40, 30, seed=0)) < half / 4


def test_the_distance_is_a_mean_over_subsets():
    random = np.random.RandomState(0)
    a, b = random.randn(60, 4), random.randn(60, 4) + 0.3
    scatter = [
        np.std([kernel_distance(a, b, subsets, 10, seed) for seed in range(20)])
        for subsets in (1, 25)
    ]
    assert 3 < scatter[0] / scatter[1] < 8  # the root of 25


def test_refuses_what_it_cannot_compare():
    with pytest.raises(MetricError, match="two sets of features"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 4)), 1, 5, seed=0)
    with pytest.raises(MetricError, match="at least 1 subset of 2"):
        kernel_distance(np.zeros((5, 3)), np.zeros((1, 3)), 1, 5, seed=0)


@pytest.mark.parametrize("counts", [(40, 57), (57, 40), (30, 30)])
def test_sums_over_all_pairs_are_those_over_each_pair_of_subsets(monkeypatch, counts):
    monkeypatch.setattr(mmd, "_BLOCK", 16)  # blocks of several sizes, on and off the diagonal
    random = np.random.RandomState(0)
    a, b = (random.randn(count, 5).astype(np.float32) for count in counts)
    drawn = [tuple(random.choice(count, 30, replace=False) for count in counts) for _ in range(7)]
    for whole, one in zip(
        mmd.pairs_of_all(a, b, drawn), mmd.pairs_of_subsets(a, b, drawn), strict=True
    ):
        for name in ("within_a", "within_b", "across_a", "across_b"):
            np.testing.assert_allclose(getattr(whole, name), getattr(one, name), rtol=1e-12)


def test_the_cheaper_way_is_taken(monkeypatch):
    taken = []
    for name in ("pairs_of_all", "pairs_of_subsets"):
        way = getattr(mmd, name)
        monkeypatch.setattr(
            mmd, name, lambda *inputs, way=way, name=name: taken.append(name) or way(*inputs)
        )
    features = np.random.RandomState(0).randn(60, 3)
    kernel_distance(features, features, 3, 10, seed=0)
    kernel_distance(features, features, 50, 20, seed=0)
    assert taken == ["pairs_of_subsets", "pairs_of_all"]
