"""L-BFGS by evaluations: it gets to the minimum, keeps the best, and counts."""

import pytest
import torch

from sg3flow.latent.refinement import refine


def minimized(function, start, count):
    """The losses that are yielded, the last point, and the number of evaluations."""
    x = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    calls = []

    def evaluate():
        loss = function(x)
        (gradient,) = torch.autograd.grad(loss, x)
        calls.append(loss.item())
        return loss.detach(), gradient, (loss.item(), x.detach().clone())

    found = list(refine(x, evaluate, count))
    return [loss for loss, _ in found], found[-1][1] if found else None, len(calls)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("scale", [1.0, 1e-9])  # however small the loss is
def test_it_finds_the_bottom_of_a_curved_valley(scale):
    losses, x, evaluations = minimized(lambda x: rosenbrock(x) * scale, [-1.2, 1.0], 100)
    torch.testing.assert_close(x, torch.ones(2), rtol=0, atol=1e-2)
    assert len(losses) == 100 and evaluations <= 100
    assert losses == sorted(losses, reverse=True)


def test_the_first_result_is_that_of_the_start():
    losses, x, evaluations = minimized(rosenbrock, [-1.2, 1.0], 1)
    assert losses == [pytest.approx(24.2)] and evaluations == 1
    assert x.tolist() == pytest.approx([-1.2, 1.0])


def test_at_a_minimum_it_repeats_the_result_without_evaluations():
    losses, x, evaluations = minimized(lambda x: x.square().sum(), [0.0, 0.0], 20)
    assert losses == [0.0] * 20 and x.tolist() == [0, 0] and evaluations < 20


def test_no_evaluations_yield_nothing():
    assert minimized(rosenbrock, [0.0, 0.0], 0) == ([], None, 0)
