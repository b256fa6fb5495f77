"""Diversity of generated images in closed form, and when it counts as a collapse."""

import math

import pytest
import torch

from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.training.diversity import (
    FAKES,
    RATIO,
    CollapseDetector,
    DiversityMeter,
    collapse_words,
    diversity,
    low_pass,
)

CPU = torch.device("cpu")


def uniform(*levels):
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)


def test_two_uniform_images_differ_by_their_levels():
    assert diversity(low_pass(uniform(-0.25, 0.5))) == pytest.approx(0.75)
    assert diversity(low_pass(uniform(-3.0, 7.0))) == pytest.approx(2.0)  # shown as black and white


def test_half_black_and_half_white():
    """Of N (N - 1) / 2 pairs, (N / 2)^2 differ by 2."""
    n = 8
    points = low_pass(uniform(*[-1.0] * (n // 2), *[1.0] * (n // 2)))
    assert diversity(points) == pytest.approx(2 * (n / 2) ** 2 / (n * (n - 1) / 2))


def test_a_pair_differs_by_the_root_mean_square_over_pixels():
    img = torch.zeros(2, 3, 32, 32)
    img[1, :, :8] = 0.6  # a quarter of the pixels
    assert diversity(low_pass(img)) == pytest.approx(0.6 * math.sqrt(1 / 4))


def test_texture_finer_than_the_filter_does_not_count():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    checks = ((x + y) % 2 * 2 - 1).to(torch.float32).expand(1, 3, 64, 64)
    assert diversity(low_pass(torch.cat([checks, -checks]))) == pytest.approx(0, abs=1e-6)
    assert low_pass(checks).shape == (1, 3 * 16 * 16)
    assert diversity(low_pass(checks)) == 0  # one image has no pair


def test_a_fall_is_told_once_and_a_low_start_is_none():
    def told(*ratios, earlier=()):
        detector = CollapseDetector(earlier)
        return [detector.has_collapsed(ratio, 1000 * k) for k, ratio in enumerate(ratios, 1)]

    assert told(0.01, 0.1, 0.24) == [False] * 3
    assert told(0.49, 0.24) == [False, False]
    assert told(0.5, 0.25, 0.24, 0.1, 0.4, 0.1) == [False, False, True, False, False, False]
    assert told(0.9, 0.1, 0.7, 0.2) == [False, True, False, True]
    assert told(0.2, earlier=[(0.8, 3000)]) == [True]
    assert told(0.2, earlier=[(0.8, 3000), (0.1, 4000)]) == [False]
    assert told(0.2, earlier=[(0.8, 0)]) == [False]  # the untrained network


class Generator:
    """Uniform images whose level is a part of the latent."""

    def __init__(self, share):
        self.share, self.batches = share, []

    def __call__(self, z, c, noise_mode):
        assert noise_mode == "const"
        self.batches.append(len(z))
        return (z[:, :1, None, None] * self.share).expand(-1, 3, 16, 16)


def test_the_ratio_to_the_reals_with_the_same_labels(tiny_set):
    items = TrainingSet(PackedSet(tiny_set), labels=True)
    z = torch.linspace(-1, 1, 5)[:, None]
    meter = DiversityMeter.of(items, [0, 1, 2, 1, 0], z, torch.zeros(5, 3), batch_gpu=2)
    reals = torch.stack([items[i][0] for i in (0, 1, 2)]) / 127.5 - 1  # each once
    assert meter.diversity_of_reals == pytest.approx(diversity(low_pass(reals)))
    generator = Generator(1.0)
    found = meter.compare(meter.sample(generator, CPU))
    assert generator.batches == [2, 2, 1]
    assert found[FAKES].mean == pytest.approx(1.0)  # the mean distance of five equal steps of 0.5
    assert found[RATIO].mean == pytest.approx(1.0 / meter.diversity_of_reals)
    tenth = meter.compare(meter.sample(Generator(0.1), CPU))
    assert tenth[RATIO].mean == pytest.approx(0.1 * found[RATIO].mean)


def test_without_a_reference_or_finite_images_there_is_no_ratio(tiny_set):
    items = TrainingSet(PackedSet(tiny_set))
    z, c = torch.ones(2, 1), torch.zeros(2, 0)
    equal = DiversityMeter.of(items, [3, 3], z, c, 2)
    assert equal.compare(equal.sample(Generator(1.0), CPU)) == {}
    broken = DiversityMeter.of(items, [3, 4], z * math.nan, c, 2)
    assert broken.compare(broken.sample(Generator(1.0), CPU)) == {}


def test_the_warning_names_the_number_its_limit_and_the_next_step():
    words = collapse_words(0.123, 120_400)
    assert "at 120 kimg" in words and "0.12 times" in words and "limit 0.25" in words
    assert "train.gamma" in words and "train.resume" in words
