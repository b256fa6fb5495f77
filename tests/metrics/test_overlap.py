import threading

import pytest
import torch

from sg3flow.metrics.generation import overlapped

CPU = torch.device("cpu")


def batches(count, drawn):
    for index in range(count):
        drawn.append(index)
        yield torch.tensor([index])


@pytest.mark.parametrize("threaded", [False, True])
def test_results_come_in_order(threaded):
    drawn = []
    found = list(overlapped(batches(20, drawn), lambda x: int(x) ** 2, CPU, threaded))
    assert found == [i**2 for i in range(20)]
    assert list(overlapped(batches(0, drawn), int, CPU, threaded)) == []


def test_the_next_batches_are_drawn_while_one_is_worked_on():
    drawn, third = [], threading.Event()

    def work(x):
        if int(x) == 0:
            assert third.wait(20)  # never set if drawing had to wait for this
        return int(x)

    def watched():
        for x in batches(30, drawn):
            if int(x) == 2:
                third.set()
            yield x

    for index in overlapped(watched(), work, CPU, threaded=True):
        assert len(drawn) <= index + 5  # memory stays bounded
    assert len(drawn) == 30


def test_an_error_of_either_side_comes_through():
    def fail(x):
        raise RuntimeError("the worker's")

    with pytest.raises(RuntimeError, match="the worker's"):
        list(overlapped(batches(5, []), fail, CPU, threaded=True))

    def broken():
        yield torch.zeros(1)
        raise RuntimeError("the drawer's")

    with pytest.raises(RuntimeError, match="the drawer's"):
        list(overlapped(broken(), int, CPU, threaded=True))
