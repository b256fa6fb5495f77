"""When the all-reduce of each bucket starts, with a second process that has equal gradients."""

import pytest
import torch

from sg3flow import distributed
from sg3flow.training.gradient_average import GradientAverage


class Chain(torch.nn.Module):
    """Weights of 1, 2, 3 and 4 numbers; backward reaches the last one first."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.ones(n) for n in (1, 2, 3, 4))

    def forward(self, used=(0, 1, 2, 3)):
        x = torch.ones([])
        for i in used:
            x = x * self.weights[i].sum()
        return x


@pytest.fixture
def started(monkeypatch):
    """The sizes of the all-reduces, in their order; "end" is where the backward pass ended."""
    started: list[int | str] = []

    def start(values):
        started.append(values.numel())
        return distributed.Pending(values.mul_(2), None)

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "start_all_reduce_sum_", start)
    return started


def one_pass(net, average, started, used=(0, 1, 2, 3), armed=True):
    if armed:
        average.arm()
    net(used).backward()
    started.append("end")


def gradients_of(net) -> list[list[float] | None]:
    return [None if w.grad is None else w.grad.tolist() for w in net.weights]


def test_buckets_start_from_the_last_parameter_on_while_backward_runs(started):
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=1)
    one_pass(net, average, started)
    expected = gradients_of(net)
    assert not average.finish()
    assert started == [4, 3, 2, "end", 1]
    assert gradients_of(net) == expected  # the mean of two equal processes


def test_a_bucket_is_closed_at_its_size(started):
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=5 * 4)
    one_pass(net, average, started)
    average.finish()
    assert started == [4 + 3, "end", 2 + 1]


def test_nothing_starts_before_the_last_pass_which_adds_up(started):
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=1)
    one_pass(net, average, started, armed=False)
    one_pass(net, average, started)
    average.finish()
    assert started == ["end", 4, 3, 2, "end", 1]
    assert gradients_of(net)[3] == [2 * 6.0] * 4


def test_no_later_bucket_waits_for_a_parameter_without_gradient(started):
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=1)
    one_pass(net, average, started, used=(0, 1, 3))
    average.finish()
    assert started == [4, "end", 2, 1]  # the first time it could still have come
    started.clear()
    net.zero_grad()
    one_pass(net, average, started, used=(0, 1, 3))
    average.finish()
    assert started == [4, 2, "end", 1]
    assert gradients_of(net)[2] is None


def test_a_gradient_that_comes_late_is_averaged_again(started):
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=5 * 4)
    one_pass(net, average, started, used=(0, 1))
    average.finish()  # the first bucket, of the last two weights, is not waited for any more
    net.zero_grad()
    started.clear()
    one_pass(net, average, started, armed=False)
    one_pass(net, average, started)
    average.finish()
    # It starts with the second gradient of one weight and the first of the other.
    assert started == ["end", 4 + 3, "end", 4 + 3, 2 + 1]
    assert gradients_of(net)[2:] == [[2 * 8.0] * 3, [2 * 6.0] * 4]


def test_other_sums_travel_with_the_last_bucket(started, monkeypatch):
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=1)
    found = []
    one_pass(net, average, started)
    later = distributed.sum_later(torch.tensor([3.0, 5.0]), lambda total: found.append(total))
    assert not later.is_complete
    average.finish()
    assert later.values.tolist() == [6, 10] and found[0] is later.values
    assert started == [4, 3, 2, "end", 1 + 2]


def test_sums_that_nothing_carries_are_completed(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda values: values * 2)
    later = distributed.sum_later(torch.tensor([3.0]))
    distributed.complete_later_sums()
    assert later.is_complete and later.values.tolist() == [6]


def test_a_single_process_sums_at_once_and_has_no_hooks():
    net = Chain()
    average = GradientAverage(net.parameters(), bucket_bytes=1)
    average.arm()
    net().backward()
    expected = gradients_of(net)
    assert not average.finish() and gradients_of(net) == expected
    assert distributed.sum_later(torch.tensor([3.0])).is_complete
