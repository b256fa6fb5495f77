"""Projection: the formulas of the paper, the way back to a known w, equal numbers, no traces."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.errors import ConfigError, DivergedError
from sg3flow.latent import projection
from sg3flow.latent.image_distances import PixelDistance, decibels, psnr
from sg3flow.latent.noise_maps import noise_maps, noise_regularization, renormalize
from sg3flow.latent.projection import (
    ProjectionSettings,
    learning_rate_factor,
    noise_factor,
    project,
)
from sg3flow.latent.w_space import sample_w_space


def target_of(G, seed=0):
    """An image of the network, and its w."""
    z = torch.randn(1, G.z_dim, generator=torch.Generator().manual_seed(seed))
    ws = G.mapping(z, torch.eye(G.c_dim)[:1] if G.c_dim else None)
    return G.synthesis(ws, noise_mode="const"), ws


def projected(G, target, steps, conditions=(None,), **settings):
    found = project(
        G, target, PixelDistance(), ProjectionSettings(steps=steps, **settings), list(conditions)
    )
    return list(found)


# Formulas


def test_the_learning_rate_grows_linearly_and_falls_along_a_cosine():
    assert [learning_rate_factor(t) for t in (0, 0.025, 0.05, 0.4, 0.75)] == [0, 0.5, 1, 1, 1]
    assert learning_rate_factor(0.875) == pytest.approx(0.5)
    quarter = 0.5 - 0.5 * math.cos(math.pi / 4)
    assert learning_rate_factor(1 - 0.25 / 4) == pytest.approx(quarter)
    assert learning_rate_factor(1) == pytest.approx(0)


def test_the_noise_fades_quadratically_over_three_quarters():
    assert [noise_factor(t) for t in (0, 0.375, 0.75, 0.9, 1)] == [0.05, 0.0125, 0, 0, 0]


def test_the_regularization_is_the_formula():
    noise = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)) + 0.3
    half = 2 * sum(noise[y::2, x::2] for y in (0, 1) for x in (0, 1)) / 4
    expected = 0.0
    for n in (noise.numpy(), half.numpy()):
        across = sum(n[y, x] * n[y, x - 1] for y in range(len(n)) for x in range(len(n)))
        down = sum(n[y, x] * n[y - 1, x] for y in range(len(n)) for x in range(len(n)))
        expected += (across / n.size) ** 2 + (down / n.size) ** 2
    assert noise_regularization(noise).item() == pytest.approx(expected, rel=1e-4)


def test_the_regularization_tells_a_picture_from_noise():
    random = torch.Generator().manual_seed(0)
    white = torch.randn(64, 64, generator=random)
    coarse = torch.randn(16, 16, generator=random).repeat_interleave(4, 0).repeat_interleave(4, 1)
    ramp = torch.linspace(-1.7, 1.7, 64).expand(64, 64)
    assert noise_regularization(white) < 0.1
    assert noise_regularization(coarse) > 1 and noise_regularization(ramp) > 1
    # an alternating map has an autocorrelation of -1: its square counts
    assert noise_regularization(torch.ones(8, 8).cumsum(0).remainder(2) * 2 - 1) == 2


def test_renormalized_maps_have_mean_0_and_variance_1():
    noise = torch.randn(8, 8) * 3 + 5
    renormalize(noise)
    assert noise.mean().abs() < 1e-6
    assert noise.square().mean().item() == pytest.approx(1, abs=1e-5)


def test_the_pixel_distance_is_the_mean_over_its_pyramid():
    distance = PixelDistance()
    a, b = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected, levels = [], (a, b)
    for _ in range(3):  # 16, 8, 4
        expected.append((levels[0] - levels[1]).square().mean())
        levels = [sum(x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4 for x in levels]
    found = distance.between(distance.features(a), distance.features(b))
    torch.testing.assert_close(found, torch.stack(expected).mean())
    assert [each.shape[-1] for each in distance.features(a)] == [16, 8, 4]


def test_decibels():
    assert decibels(0.01, peak=1) == pytest.approx(20)
    assert decibels(255**2, peak=255) == 0
    assert decibels(0, peak=2) == decibels(1e-30, peak=2) == 100
    black, white = torch.full((1, 3, 4, 4), -1.0), torch.full((1, 3, 4, 4), 1.0)
    assert psnr(black, white) == 0 and psnr(3 * black, black) == 100


def test_a_step_is_that_of_the_paper(small_generator):
    """Noise on w, the network's own noise maps, their regularization, and one step of Adam."""
    G = small_generator("stylegan2")
    target, _ = target_of(G)
    random = np.random.RandomState(0)
    space = sample_w_space(G, random, [None])
    noise = torch.from_numpy(random.standard_normal((1, 1, G.w_dim))).float()
    u = torch.zeros(1, 1, G.w_dim, requires_grad=True)
    moved = space.at(u + noise * noise_factor(0.5)).expand(-1, G.num_ws, -1)
    img = G.synthesis(moved, noise_mode="const")
    distance = PixelDistance()
    loss = distance.between(distance.features(img), distance.features(target))
    (gradient,) = torch.autograd.grad(loss, u)
    [step] = projected(G, target, 1, lr=0.01, noise_reg=0.0)
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(step.img, img)
    expected = space.at(-0.01 * gradient.sign())  # t is 0.5, so the rate is the greatest
    torch.testing.assert_close(step.w, expected.expand_as(step.w), rtol=0, atol=1e-4)
    [held] = projected(G, target, 1, lr=0.01, noise_reg=2.0)
    regularization = sum(noise_regularization(each).item() for each in noise_maps(G.synthesis))
    assert held.loss == pytest.approx(loss.item() + 2 * regularization, rel=1e-4)


def test_each_step_has_the_learning_rate_of_its_time(small_generator, monkeypatch):
    """In its first step, Adam moves every number by the learning rate, whatever the gradient."""
    G = small_generator("stylegan2")
    target, _ = target_of(G)
    asked = []
    monkeypatch.setattr(projection, "learning_rate_factor", lambda t: asked.append(t) or 0.0)
    still = projected(G, target, 4)
    assert asked == [0.125, 0.375, 0.625, 0.875]
    assert all(torch.equal(each.w, still[0].w) for each in still)
    moves = []
    for factor in (0.5, 0.25):
        monkeypatch.setattr(projection, "learning_rate_factor", lambda t, factor=factor: factor)
        moves.append(projected(G, target, 1)[0].w - still[0].w)
    torch.testing.assert_close(moves[0], 2 * moves[1], rtol=1e-3, atol=1e-5)
    assert moves[1].abs().max() > 1e-3


def test_noise_maps_are_renormalized_after_each_step(small_generator, monkeypatch):
    G = small_generator("stylegan2")
    target, _ = target_of(G)
    seen = []
    monkeypatch.setattr(projection, "renormalize", lambda noise: seen.append(renormalize(noise)))
    projected(G, target, 2)
    assert len(seen) == 2 * len(noise_maps(G.synthesis))
    projected(G, target, 2, noise_reg=0)
    assert len(seen) == 2 * len(noise_maps(G.synthesis))


# The way back


@pytest.mark.medium
@pytest.mark.parametrize(
    ("kind", "space", "noise_reg", "seed"),
    [
        ("stylegan2", "w", 0.0, 0),
        ("stylegan2", "w", 1e5, 0),
        ("stylegan2", "w+", 0.0, 1),
        ("stylegan3", "w", 1e5, 0),
        ("stylegan3", "w+", 1e5, 0),
        ("stylegan3", "w+", 1e5, 3),
    ],
)
def test_an_image_of_the_network_is_found_again(small_generator, kind, space, noise_reg, seed):
    G = small_generator(kind)
    target, _ = target_of(G, seed)
    steps = projected(G, target, 300, space=space, noise_reg=noise_reg)
    own = G.synthesis(steps[-1].w, noise_mode="const")
    assert psnr(own, target) > 40 > 30 > psnr(steps[0].img, target)
    assert [step.step for step in steps] == list(range(1, 301))
    if kind == "stylegan3":
        assert steps[-1].psnr == pytest.approx(psnr(own, target), abs=1e-3)


@pytest.mark.slow
def test_an_image_of_the_starter_network_is_found_again():
    G = load_networks("starter").G_ema
    z = torch.randn(1, G.z_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ws = G.mapping(z, torch.eye(3)[:1])
        target = G.synthesis(ws, noise_mode="const", force_fp32=True)
    steps = projected(G, target, 300, [0])
    assert steps[-1].psnr > 45 > 25 > steps[0].psnr


def test_lbfgs_starts_where_adam_ends_and_never_gets_worse(small_generator):
    G = small_generator()
    target, _ = target_of(G)
    steps = projected(G, target, 24)
    losses = [step.loss for step in steps[12:]]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    # Its first evaluation is at the w that Adam left, without noise.
    img = G.synthesis(steps[11].w, noise_mode="const")
    torch.testing.assert_close(steps[12].img, img)
    torch.testing.assert_close(G.synthesis(steps[-1].w, noise_mode="const"), steps[-1].img)
    smaller = projected(G, target, 24, lr=0.01)
    assert smaller[11].loss != steps[11].loss


def test_a_conditional_network_starts_at_the_mean_of_its_class(small_generator):
    G = small_generator("stylegan2", c_dim=2)
    target, _ = target_of(G)
    one, other = (projected(G, target, 1, [c], lr=1e-9)[0].w for c in (0, 1))
    mean = sample_w_space(G, np.random.RandomState(0), [0]).mean
    torch.testing.assert_close(one, mean.expand_as(one), rtol=0, atol=1e-6)
    assert (one - other).abs().max() > 0.1


def test_equal_arguments_give_equal_numbers_and_another_seed_others(small_generator):
    G = small_generator("stylegan2")
    target, _ = target_of(G)
    torch.manual_seed(1)
    one = projected(G, target, 4)
    torch.manual_seed(2)
    other = projected(G, target, 4)
    assert [s.loss for s in one] == [s.loss for s in other]
    assert torch.equal(one[-1].w, other[-1].w)
    assert not torch.equal(projected(G, target, 4, seed=1)[-1].w, one[-1].w)


def test_space_w_has_one_vector_and_w_plus_one_per_layer(small_generator):
    G = small_generator("stylegan2")
    target, _ = target_of(G)
    w, plus = (projected(G, target, 3, space=space)[-1].w for space in ("w", "w+"))
    assert w.shape == plus.shape == (1, G.num_ws, G.w_dim)
    assert torch.equal(w, w[:, :1].expand_as(w))
    assert (plus[:, 0] - plus[:, 1]).abs().max() > 0


def test_the_network_stays_as_it_was(small_generator):
    G = small_generator("stylegan2")
    before = {name: value.clone() for name, value in G.state_dict().items()}
    target, _ = target_of(G)
    for step in islice(project(G, target, PixelDistance(), ProjectionSettings(), [None]), 2):
        assert torch.is_grad_enabled() and not step.w.requires_grad and not step.img.requires_grad
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())
    assert not any(buffer.requires_grad for buffer in G.buffers())
    assert len(noise_maps(G.synthesis)) == 5 and noise_maps(small_generator().synthesis) == []


def test_the_result_of_a_step_is_the_callers_own(small_generator):
    G = small_generator("stylegan2")
    target, _ = target_of(G)
    steps = project(G, target, PixelDistance(), ProjectionSettings(steps=3, lr=0.1), [None])
    first = next(steps).w
    kept = first.clone()
    next(steps)
    assert torch.equal(first, kept)


def test_a_loss_that_is_not_finite_ends_it(small_generator):
    G = small_generator("stylegan2")
    target = torch.full((1, 3, 16, 16), math.nan)
    with pytest.raises(DivergedError, match="is nan at step 1; lower --lr"):
        projected(G, target, 2)


def test_an_unknown_space_is_refused():
    with pytest.raises(ConfigError, match=r"space must be w or w\+, not 'z'"):
        ProjectionSettings(space="z")
