import math

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


@pytest.mark.medium
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


def test_distance_of_known_patches_in_closed_form():
    """A set of bright and of dark patches to one of flat patches, on two levels.

    Normalized, the values of a patch are all 1 or all -1, so a projection on a unit vector d is
    plus or minus the sum of d, and the flat patches project to 0. The sum is about N(0, 1).
    """
    signs = torch.tensor([1.0, -1.0]).repeat(8)[:, None].expand(16, 147).flatten()
    scattered = signs.repeat(2)[None].repeat(12, 1) * 7 + 50
    flat = torch.full_like(scattered, 90)
    found = sliced_wasserstein(scattered, flat, 2, seed=0, device=CPU).value
    assert found == pytest.approx(1000 * math.sqrt(2 / math.pi), rel=0.1)


def test_brightness_and_contrast_of_a_set_do_not_count():
    random = torch.Generator().manual_seed(0)
    patches = torch.rand(12, 16, 3, 49, generator=random) * torch.tensor([1.0, 5, 20])[:, None]
    other = patches * torch.tensor([3.0, 1, 0.5])[:, None] + torch.tensor([0.0, 50, -9])[:, None]
    a, b = (x.flatten(1)[torch.randperm(12, generator=random)] for x in (patches, other))
    assert sliced_wasserstein(a, b, 1, seed=0, device=CPU).value < 0.1
    x = torch.randn(30, 4, generator=random)
    assert _sorted_difference(x, x.flip(0) + 2).tolist() == pytest.approx([2] * 4)


def test_sizes_without_a_pyramid_are_refused():
    with pytest.raises(MetricError, match=r"16, 32, 64… pixels per side, not 48"):
        PatchFeatures(48)
    with pytest.raises(MetricError, match="64x64, not 32x64"):
        PatchFeatures(64)(torch.zeros(1, 3, 64, 32, dtype=torch.uint8))
