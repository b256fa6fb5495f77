"""How many processes read images: not more than there are CPUs."""

import pytest

from sg3flow import resources
from sg3flow.resources import workers_that_fit
from sg3flow.training import training_run


@pytest.mark.parametrize(
    ("asked", "cpus", "processes", "fitting"),
    [
        (3, 2, "", 2),
        (3, 8, "", 3),
        (0, 8, "", 0),
        (3, 1, "", 1),
        (3, 16, "8", 2),
        (3, 2, "8", 1),
        (3, 2, "many", 2),
        (3, 2, "0", 2),
    ],
)
def test_workers_fit_the_machine(monkeypatch, asked, cpus, processes, fitting):
    monkeypatch.setattr(resources, "available_cpus", lambda: cpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert workers_that_fit(asked) == fitting


def test_a_training_says_that_it_starts_fewer(monkeypatch, capsys):
    monkeypatch.setattr(resources, "available_cpus", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert training_run._workers(2) == 2
    assert capsys.readouterr().err == ""
    assert training_run._workers(3) == 2
    words = "note: train.workers is 3; 2 read images here, one per CPU\n"
    assert capsys.readouterr().err == words
