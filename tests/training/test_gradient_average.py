"""Gradients averaged in buckets during backward, in two processes, and the collectives of a step.

With two processes a sum does not depend on its order, so every size of bucket gives equal bits.
"""

import pytest
import steps_worker
import torch
from joined_processes import results_of

pytestmark = pytest.mark.medium  # the first test imports the package in another process

WHOLE = 2**20  # one bucket: all gradients in a flat all-reduce after the backward pass


@pytest.fixture(scope="module")
def found() -> dict[int, list[dict]]:
    """By bytes of a bucket, what each of two processes found."""
    sizes = (WHOLE, 1, 100)  # everything; a parameter each; some of several parameters
    return {size: results_of(2, steps_worker.averaged, size) for size in sizes}


def passes_of(ended: dict) -> list[dict[str, torch.Tensor]]:
    return [one["gradients"] for one in ended["passes"]]


def test_every_size_of_buckets_gives_the_same_bits_in_all_processes(found):
    expected = passes_of(found[WHOLE][0])
    for ended in (each for both in found.values() for each in both):
        for gradients, wanted in zip(passes_of(ended), expected, strict=True):
            assert gradients.keys() == wanted.keys()
            assert all(torch.equal(gradients[name], wanted[name]) for name in wanted)


def test_the_average_is_that_of_the_processes_over_all_micro_batches(found):
    gradients, count = passes_of(found[1][0]), 0
    randoms = [torch.Generator().manual_seed(rank) for rank in range(2)]
    net = steps_worker.Net()
    for step, uses_third in enumerate((True, True, False, True)):
        net.zero_grad()
        for random in (randoms[0], randoms[0], randoms[1], randoms[1]):
            net(torch.randn(4, 3, generator=random), uses_third).backward()
        for name, parameter in net.named_parameters():
            if parameter.grad is None:
                assert name not in gradients[step]
                continue
            torch.testing.assert_close(gradients[step][name], parameter.grad / 2)
            count += 1
    assert count == 5 + 5 + 3 + 5


def test_parameters_without_gradient_keep_none(found):
    names = [set(gradients) for gradients in passes_of(found[1][0])]
    all_used = {"first.weight", "first.bias", "second.weight", "third.weight", "third.bias"}
    assert names == [all_used, all_used, {"first.weight", "first.bias", "second.weight"}, all_used]


def test_buckets_start_within_the_last_backward_pass_only(found):
    assert found[WHOLE][0]["calls"] == ["backward", "done", "backward", "done", "all_reduce"] * 4
    calls = found[1][0]["calls"]
    assert found[1][1]["calls"] == calls
    parts = " ".join(calls).split("backward ")[1:]
    during, after = ([part.split("done")[i].count("all_reduce") for part in parts] for i in (0, 1))
    # Buckets of single parameters in reverse order: third (2), second, unused, first (2). At first
    # all wait for `unused`, then it is known to have no gradient. The last one, which carries the
    # other sums, waits for the end of the pass. In the third step all wait for `third`, which
    # comes first and has no gradient; in the fourth one of its two buckets starts too early, and
    # starts again at the end.
    assert during[0::2] == [0, 0, 0, 0] and after[0::2] == [0, 0, 0, 0]
    assert during[1::2] == [3, 4, 0, 4]
    assert after[1::2] == [2, 1, 3, 2]


def test_sums_travel_with_the_gradients(found):
    for both in found.values():
        for ended in both:
            assert all(one["later"].tolist() == [3, 3] for one in ended["passes"])


def test_gradients_are_repaired_after_averaging():
    for bucket_bytes in (1, WHOLE):
        for ended in results_of(2, steps_worker.repaired, bucket_bytes):
            assert bool(ended["repaired"])
            weight, *_, bias = ended["gradients"]
            assert (float(weight[0, 0]), float(bias[0])) == (0, 1e5)
            assert weight.flatten()[1:].eq(2).all() and bias[1:].eq(2).all()


@pytest.mark.parametrize(("cfg", "layers"), [("stylegan3-t", 15), ("stylegan2", 0)])
def test_the_collective_calls_of_a_step(cfg, layers):
    """One for the gradients of each phase, and one for each layer's statistic.

    w_avg and ADA's signs travel with the gradients of D, in every micro-batch.
    """
    first, second = results_of(2, steps_worker.collectives, cfg)
    assert first == second
    counts = {
        name: {call: calls.count(call) for call in set(calls)} for name, calls in first.items()
    }
    statistics = 2 * layers  # two micro-batches
    path_length = {"all_gather": 2} if cfg == "stylegan2" else {}
    phases = 4 if cfg == "stylegan2" else 3
    gathered = path_length.get("all_gather", 0)  # its backward pass is an all-reduce
    assert counts == {
        "step 0": {"all_reduce": phases + statistics + gathered} | path_length,
        "step 3": {"all_reduce": 2 + statistics},
        "state": {"all_reduce": 3},  # moments and first bad steps; ADA's signs
        "check": {"all_reduce": 1},
    }
