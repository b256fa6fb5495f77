from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional

from sg3flow.errors import MetricError
from sg3flow.metrics import RunningStats, frechet_distance
from sg3flow.metrics.features import RandomFeatures

DIGEST = "cc99ffe847be4c92d5c63cd6c2f841696723e6b9b63f3a5d475c51dc0c9357ac"


@pytest.fixture(scope="module")
def extractor():
    return RandomFeatures()


@pytest.fixture(scope="module")
def distance(extractor, draw_faces):
    def stats(images):
        running = RunningStats(extractor.num_features)
        for part in images.split(50):
            running.add(extractor(part).numpy())
        return running.result()

    real = stats(draw_faces(300, seed=0))

    def measure(images):
        other = stats(images)
        return frechet_distance(real.mean, real.cov, other.mean, other.cov)

    return measure


def test_weights_never_change(extractor):
    assert extractor.digest == DIGEST
    torch.manual_seed(7)
    np.random.seed(7)
    assert RandomFeatures().digest == DIGEST


@pytest.mark.medium
def test_distance_orders_pictures_as_a_person_would(distance, draw_faces, blur):
    faces = draw_faces(300, seed=1)
    random = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, faces.shape, dtype=torch.uint8, generator=random)
    # What an untrained generator draws: smooth, of low contrast, without shapes.
    clouds = functional.interpolate(
        torch.randn(300, 3, 8, 8, generator=random), size=(64, 64), mode="bicubic"
    )
    untrained = (clouds * 13 + 128).to(torch.uint8)
    ordered = [noise, untrained, blur(faces, 7), blur(faces, 3), faces]
    found = [distance(images) for images in ordered]
    assert all(worse > 1.5 * better for worse, better in pairwise(found)), found


def test_distance_sees_a_collapse(distance, draw_faces):
    faces = draw_faces(300, seed=1)
    assert distance(faces[:5].repeat(60, 1, 1, 1)) > 5 * distance(faces)


def test_distance_sees_missing_colors(distance, draw_faces):
    faces = draw_faces(300, seed=1)
    grey = faces.float().mean(dim=1, keepdim=True).to(torch.uint8)
    assert distance(grey) > 5 * distance(faces)


def test_features_do_not_depend_on_the_batch(extractor, draw_faces):
    images = draw_faces(9, seed=2, size=100)
    whole = extractor(images)
    single = torch.cat([extractor(image[None]) for image in images])
    assert whole.shape == (9, 254) and whole.dtype == torch.float32
    assert (whole - single).abs().max() < 1e-5


def test_size_of_the_picture_matters_little(extractor, draw_faces):
    small, large = (extractor(draw_faces(20, seed=3, size=size)) for size in (64, 256))
    other = extractor(draw_faces(20, seed=4, size=64))
    assert (small - large).square().sum() < 0.05 * (small - other).square().sum()


def test_grey_is_repeated_and_others_refused(extractor):
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(MetricError, match="images uint8"):
        extractor(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))
