import numpy as np
import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics import neighborhoods, precision_recall


@pytest.mark.parametrize("block", [4096, 97])
def test_golden_whatever_the_block(golden, monkeypatch, block):
    monkeypatch.setattr(neighborhoods, "_BLOCK", block)
    arrays = np.load(golden / "metrics.npz")
    real, gen = (torch.from_numpy(arrays[name]) for name in ("feats_real", "feats_gen"))
    assert np.float32(precision_recall(real, gen, 3)).tolist() == arrays["pr3"].tolist()


def test_points_on_a_line():
    real = torch.tensor([[0.0], [1], [2], [10]])
    gen = torch.tensor([[0.5], [3.5], [19]])
    # Radii of the real points: 1, 1, 1, 8; of the generated ones: 3, 3, 15.5.
    assert precision_recall(real, gen, 1) == pytest.approx((2 / 3, 1.0))


def test_equal_sets_cover_each_other():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert precision_recall(features, features.clone(), 3) == (1.0, 1.0)


def test_far_sets_share_nothing():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    assert precision_recall(features, features + 100, 3) == (0.0, 0.0)


def test_refuses_too_few_items_and_other_features():
    with pytest.raises(MetricError, match="more than 3 items"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2), 3)
    with pytest.raises(MetricError, match="two sets of features"):
        precision_recall(torch.zeros(9, 2), torch.zeros(9, 3), 3)
