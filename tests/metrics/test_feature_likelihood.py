import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from sg3flow.errors import MetricError
from sg3flow.metrics import feature_likelihood as fld
from sg3flow.metrics.feature_likelihood import Mixture, baseline_likelihood, feature_likelihood

CPU = torch.device("cpu")
WIDTH = 16


def drawn(seed, count, shift=0.0):
    """Six groups of images that vary along four directions."""
    fixed, random = np.random.RandomState(99), np.random.RandomState(seed)
    groups, directions = fixed.randn(6, WIDTH) * 1.5, fixed.randn(4, WIDTH) * 0.5
    x = groups[random.randint(6, size=count)] + random.randn(count, 4) @ directions
    return torch.from_numpy((x + 0.3 * random.randn(count, WIDTH) + shift).astype(np.float32))


TRAIN, TEST = drawn(0, 240), drawn(1, 200)


@pytest.fixture(scope="module")
def baseline():
    return baseline_likelihood(TRAIN, TEST, 120)


def measured(gen, baseline):
    return feature_likelihood(TRAIN, TEST, gen, baseline=baseline)


def log_likelihood(items, centers, variances):
    """Of each item, by the textbook."""
    densities = [
        multivariate_normal(center, variance).logpdf(items)
        for center, variance in zip(centers.numpy(), variances.tolist(), strict=True)
    ]
    return np.logaddexp.reduce(densities, axis=0) - math.log(len(centers))


def test_the_value_is_the_likelihood_of_held_out_images(baseline):
    gen = drawn(2, 30)
    found = measured(gen, baseline)
    mean, deviation = TEST.mean(dim=0), TEST.std(dim=0)
    train, test, centers = ((items - mean) / deviation for items in (TRAIN, TEST, gen))
    mixture = Mixture.fitted(centers, train, CPU)
    of_test, of_train = (
        log_likelihood(items, centers, mixture.variances).mean() / WIDTH for items in (test, train)
    )
    assert found.divergence.value == pytest.approx(-100 * (of_test - baseline), rel=1e-4)
    assert found.gap.value == pytest.approx(-100 * (of_train - of_test), rel=1e-4)


def test_what_is_left_out_is_left_out():
    """Blocks of 2 and 3 images: the others weigh more without a larger one."""
    centers = drawn(2, 24)
    mixture = Mixture(centers, torch.linspace(0.2, 1, 24, dtype=torch.float64))
    found = fld._likelihoods(mixture, TEST[:20], CPU)
    bounds = fld.block_bounds(24)
    assert len({b - a for a, b in bounds}) == 2 and len(found) == 1 + len(bounds)
    for value, (a, b) in zip(found[1:], bounds, strict=True):
        rest = [number for number in range(24) if not a <= number < b]
        wanted = log_likelihood(TEST[:20], centers[rest], mixture.variances[rest]).mean() / WIDTH
        assert value == pytest.approx(wanted, rel=1e-5)


def test_variances_are_those_of_the_greatest_likelihood(monkeypatch):
    monkeypatch.setattr(fld, "_STEPS", 1000)
    monkeypatch.setattr(fld, "_ENOUGH", -1.0)  # to the end
    items, centers = drawn(3, 40), drawn(4, 6)
    kept = []
    step = fld._Step.maximized
    monkeypatch.setattr(fld._Step, "maximized", lambda self: kept.append(step(self)) or kept[-1])
    found = Mixture.fitted(centers, items, CPU).variances
    to_mean = fld._BASE * (items - items.mean(dim=0)).square().sum(dim=1).double().numpy()

    def likelihood(variances, base):
        mixture = log_likelihood(items.numpy(), centers, variances)
        of_base = -(to_mean / base + WIDTH * math.log(2 * math.pi * base)) / 2
        return np.logaddexp(mixture, of_base).sum()

    base = kept[-1][1]
    best = likelihood(found, base)
    for factor in (0.98, 1.02):
        assert likelihood(found, base * factor) < best
        for center in range(6):
            other = found.clone()
            other[center] *= factor
            assert likelihood(other, base) <= best + 1e-6
    assert len({round(v, 6) for v in found.tolist()}) == 6


def test_each_step_raises_the_likelihood(monkeypatch):
    seen = []
    step = fld._Step.maximized
    monkeypatch.setattr(
        fld._Step, "maximized", lambda self: seen.append(self.likelihood) or step(self)
    )
    Mixture.fitted(drawn(4, 12), drawn(3, 80), CPU)
    assert len(seen) > 2 and seen == sorted(seen)


def test_images_of_the_same_kind_are_as_good_as_training_images(baseline):
    values = [measured(drawn(seed, 120), baseline) for seed in range(10, 22)]
    mean = np.mean([each.divergence.value for each in values])
    assert abs(mean) < 5  # worse ones are at 10 and more, see below
    honest = np.mean([each.memorized.value for each in values])
    assert honest < 0.03


def test_worse_images_have_a_higher_value(baseline):
    good, shifted, one_group = (
        measured(gen, baseline).divergence.value
        for gen in (drawn(5, 120), drawn(5, 120, 0.8), drawn(5, 120)[:1].repeat(120, 1))
    )
    assert good + 10 < shifted and good + 10 < one_group


def test_copies_are_found(baseline):
    honest, copies = measured(drawn(6, 120), baseline), measured(TRAIN[:120], baseline)
    assert copies.divergence.value > 1000 and copies.gap.value < -1000 < honest.gap.value < 20
    assert copies.memorized.value == 1 and honest.memorized.value < 0.05
    some = measured(torch.cat([TRAIN[:36], drawn(6, 84)]), baseline)
    assert some.memorized.value == pytest.approx(0.3, abs=0.03)
    assert copies.memorized.standard_error == 0 < some.memorized.standard_error


def test_errors_are_the_scatter(baseline):
    found = [measured(drawn(seed, 120), baseline) for seed in range(50, 80)]
    for name, low, high in (("divergence", 0.7, 1.7), ("gap", 0.7, 1.7), ("memorized", 0.5, 2)):
        estimates = [getattr(each, name) for each in found]
        scatter = np.std([each.value for each in estimates], ddof=1)
        told = np.mean([each.standard_error for each in estimates])
        assert low < told / scatter < high, name
    assert measured(drawn(0, 19), baseline).divergence.standard_error is None


def test_blocks_change_nothing(monkeypatch, baseline):
    whole = measured(drawn(7, 60), baseline)
    monkeypatch.setattr(fld, "_ROWS", 32)
    monkeypatch.setattr(fld, "_KEPT_BYTES", 0)  # distances are computed anew in each step
    parts = measured(drawn(7, 60), baseline)
    for name in ("divergence", "gap", "memorized"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert other.value == pytest.approx(one.value, rel=1e-4, abs=1e-4)
        assert other.standard_error == pytest.approx(one.standard_error, rel=1e-3)


def test_features_may_have_any_scale_and_may_be_constant(baseline):
    def other(items):
        return torch.cat([items * 50 + 7, torch.full((len(items), 1), 3.0)], dim=1)

    found = feature_likelihood(other(TRAIN), other(TEST), other(drawn(8, 60)))
    assert math.isfinite(found.divergence.value)
    wanted = feature_likelihood(TRAIN, TEST, drawn(8, 60))
    assert found.divergence.value == pytest.approx(wanted.divergence.value * 16 / 17, abs=2)


def test_refuses_what_it_cannot_compare():
    with pytest.raises(MetricError, match="sets of features"):
        feature_likelihood(TRAIN, TEST[:, :3], drawn(0, 20))
    with pytest.raises(MetricError, match=r"at least 2 .* not 240, 1, 20"):
        feature_likelihood(TRAIN, TEST[:1], drawn(0, 20))
