"""Ordered work over processes: the same results, errors, and ends as in one."""

import multiprocessing
import operator
import os
from contextlib import closing

import pytest

from sg3flow.data.worker_pool import ordered_map, workers_for
from sg3flow.errors import DataError


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 50])
def test_results_come_in_the_order_of_the_jobs(workers, number):
    assert list(ordered_map(operator.mul, 3, range(number), workers)) == [
        3 * i for i in range(number)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_is_the_callers(workers):
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(operator.truediv, 1, [1, 2, 0, 4], workers))
    assert multiprocessing.active_children() == []


def test_large_results_pass_whole():
    results = list(ordered_map(operator.mul, b"x" * 1_000_000, [1, 2, 3], 2))
    assert [len(each) for each in results] == [1_000_000, 2_000_000, 3_000_000]


def test_a_process_that_was_killed_is_an_error():
    with pytest.raises(DataError, match="a worker process was killed"):
        list(ordered_map(operator.call, os._exit, [9] * 20, 2))
    assert multiprocessing.active_children() == []


def test_jobs_are_taken_only_a_little_ahead():
    taken = []

    def jobs():
        for i in range(10_000):
            taken.append(i)
            yield i

    with closing(ordered_map(operator.mul, 1, jobs(), 2)) as results:
        for _ in range(10):
            next(results)
        assert len(taken) < 60
    assert multiprocessing.active_children() == []


def test_few_jobs_need_no_processes():
    assert workers_for(3) == 1 and workers_for(3, 2) == 2 and workers_for(10_000) >= 1
