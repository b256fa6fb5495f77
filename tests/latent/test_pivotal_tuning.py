"""Pivotal tuning: the formulas of the paper, a better picture at the pivot, others kept."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch

from sg3flow.errors import DivergedError
from sg3flow.latent.image_distances import PixelDistance, psnr
from sg3flow.latent.pivotal_tuning import TuningSettings, towards, tune


@pytest.fixture
def pivot(small_generator):
    """A network, a w, and a target that the network does not draw there."""
    G = small_generator("stylegan2")
    random = torch.Generator().manual_seed(0)
    w = G.mapping(torch.randn(1, 16, generator=random), None)
    target = torch.rand(1, 3, 4, 4, generator=random).repeat_interleave(4, 2)
    return G, w, target.repeat_interleave(4, 3) * 2 - 1


def tuned_for(G, w, target, conditions=(None,), **settings):
    tuned = copy.deepcopy(G)
    found = tune(G, tuned, w, target, PixelDistance(), TuningSettings(**settings), list(conditions))
    return tuned, list(found)


def test_tuning_draws_the_target_better(pivot):
    G, w, target = pivot
    before = {name: value.clone() for name, value in G.state_dict().items()}
    tuned, steps = tuned_for(G, w, target, steps=12, lr=3e-3)
    assert psnr(tuned.synthesis(w), target) > psnr(G.synthesis(w), target) + 1
    assert steps[0].psnr == pytest.approx(psnr(G.synthesis(w), target), abs=1e-3)
    assert steps[-1].step == 12 and steps[-1].loss < steps[0].loss
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())
    # the mapping network stays, so that every seed keeps its w
    mapping = tuned.mapping.state_dict()
    assert all(torch.equal(before[f"mapping.{name}"], value) for name, value in mapping.items())
    assert not any(each.requires_grad or each.grad is not None for each in tuned.parameters())


def test_the_loss_is_distance_plus_squared_error_plus_locality(pivot):
    G, w, target = pivot
    distance = PixelDistance()

    def both(a, b):
        near = distance.between(distance.features(a), distance.features(b))
        return (near + (a - b).square().mean()).item()

    _, plain = tuned_for(G, w, target, steps=2, lr=3e-3, locality=0.0)
    _, local = tuned_for(G, w, target, steps=2, lr=3e-3, locality=0.5)
    assert plain[0].loss == pytest.approx(both(G.synthesis(w), target), rel=1e-5)
    assert local[0].loss == plain[0].loss  # nothing has changed yet
    once, _ = tuned_for(G, w, target, steps=1, lr=3e-3, locality=0.5)
    random = np.random.RandomState(0)
    random.standard_normal((1, 16))  # of the first step
    z = torch.from_numpy(random.standard_normal((1, 16))).float()
    near = towards(w, G.mapping(z, None), 30.0)
    change = both(once.synthesis(near), G.synthesis(near))
    expected = both(once.synthesis(w), target) + 0.5 * change
    assert change > 0 and local[1].loss == pytest.approx(expected, rel=1e-4)


def test_locality_keeps_other_images_nearer(pivot):
    G, w, target = pivot
    other = G.mapping(torch.randn(4, 16, generator=torch.Generator().manual_seed(9)), None)
    free, _ = tuned_for(G, w, target, steps=12, lr=3e-3, locality=0.0)
    kept, _ = tuned_for(G, w, target, steps=12, lr=3e-3, locality=3.0)
    changes = [
        (each.synthesis(other) - G.synthesis(other)).square().mean() for each in (free, kept)
    ]
    assert changes[1] < 0.9 * changes[0]


def test_a_near_w_lies_on_the_way_and_not_beyond():
    pivot, other = torch.zeros(1, 2, 3), torch.tensor([[[6.0, 8, 0], [0, 0.3, 0.4]]])
    found = towards(pivot, other, 5)
    torch.testing.assert_close(found, torch.tensor([[[3.0, 4, 0], [0, 0.3, 0.4]]]))
    assert torch.equal(towards(other, other, 5), other)
    torch.testing.assert_close(towards(pivot + 1, other + 1, 5), found + 1)


def test_equal_settings_give_equal_weights(pivot):
    G, w, target = pivot
    one, other = (tuned_for(G, w, target, steps=2)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_closed_early_asks_for_no_gradients(pivot):
    G, w, target = pivot
    tuned = copy.deepcopy(G)
    steps = tune(G, tuned, w, target, PixelDistance(), TuningSettings(), [None])
    list(islice(steps, 1))
    steps.close()
    assert not any(each.requires_grad for each in tuned.parameters())


def test_a_loss_that_is_not_finite_ends_it(pivot):
    G, w, target = pivot
    with pytest.raises(DivergedError, match="pivotal tuning is nan at step 1"):
        tuned_for(G, w, target * torch.nan, steps=2)


def test_conditions_are_taken_in_turn(small_generator):
    G = small_generator("stylegan2", c_dim=2)
    w = G.mapping(torch.zeros(1, 16), torch.eye(2)[:1])
    target, labels = torch.zeros(1, 3, 16, 16), []
    mapping = G.mapping.forward
    tuned = copy.deepcopy(G)
    G.mapping.forward = lambda z, c: mapping(z, labels.append(c.argmax().item()) or c)
    try:
        list(tune(G, tuned, w, target, PixelDistance(), TuningSettings(steps=3), [0, 1]))
    finally:
        del G.mapping.forward
    assert labels == [0, 1, 0]
