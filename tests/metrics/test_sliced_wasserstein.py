import pytest
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics.sliced_wasserstein import (
    PatchFeatures,
    _doubled,
    _halved,
    _quantiles,
    _sorted_difference,
    sliced_wasserstein,
)

CPU = torch.device("cpu")


def distance(a, b, seed=0):
    patches = PatchFeatures(a.shape[-1])
    return sliced_wasserstein(patches(a), patches(b), patches.num_levels, seed, CPU)


@pytest.mark.medium
def test_zero_for_equal_sets_and_larger_the_more_they_differ(draw_faces, blur):
    faces = draw_faces(60, seed=0)
    assert distance(faces, faces).value == 0
    others = distance(faces, draw_faces(60, seed=1)).value
    soft = distance(faces, blur(faces, 5)).value
    softer = distance(faces, blur(faces, 15)).value
    assert 0 < soft < softer and 0 < others < softer


def test_error_and_seed(draw_faces):
    a, b = draw_faces(60, seed=0), draw_faces(60, seed=1)
    found = distance(a, b)
    assert 0 < found.standard_error < found.value
    assert distance(a, b) == found and distance(a, b, seed=1).value != found.value
    assert distance(a, b[:19]).standard_error is None


def test_patches_depend_on_neither_batch_nor_order(draw_faces):
    images = draw_faces(9, seed=0, size=32)
    patches = PatchFeatures(32)
    whole = patches(images)
    assert whole.shape == (9, patches.num_features) and patches.num_levels == 2
    parts = torch.cat([patches(part) for part in images.flip(0).split(4)]).flip(0)
    assert torch.allclose(whole, parts, atol=1e-4)
    grey = images[:, :1]
    assert torch.equal(patches(grey), patches(grey.expand(-1, 3, -1, -1).contiguous()[:, :1]))


def test_a_flat_picture_has_no_detail():
    flat = torch.full((2, 3, 64, 64), 90, dtype=torch.uint8)
    features = PatchFeatures(64)(flat).view(2, 3, -1)
    assert features[:, :2].abs().max() < 1e-3
    assert torch.allclose(features[:, 2], torch.tensor(90.0))


def test_halving_and_doubling_keep_a_smooth_picture():
    x = torch.linspace(0, 1, 64).expand(1, 3, 64, 64) ** 2
    assert (_doubled(_halved(x)) - x)[..., 4:-4, 4:-4].abs().max() < 1e-3


def test_sets_of_different_size_meet_at_their_quantiles():
    x = torch.arange(100.0)[:, None]
    assert torch.equal(_quantiles(x, 100), x)
    assert _quantiles(x, 10)[:, 0].tolist() == [4.5 + 10 * i for i in range(10)]
    many, few = torch.arange(100.0)[:, None], torch.arange(4.5, 100, 10)[:, None]
    assert _sorted_difference(many[torch.randperm(100)], few + 2).item() == pytest.approx(2)


def test_sizes_without_a_pyramid_are_refused():
    with pytest.raises(MetricError, match=r"16, 32, 64… pixels per side, not 48"):
        PatchFeatures(48)
    with pytest.raises(MetricError, match="64x64, not 32x64"):
        PatchFeatures(64)(torch.zeros(1, 3, 64, 32, dtype=torch.uint8))
