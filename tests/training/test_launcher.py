"""Which of several ended processes the launcher names."""

import json
import signal

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from sg3flow.errors import ConfigError, ProcessLostError, TrainingInterruptedError
from sg3flow.training.launcher import _first_error

NOW = 1_700_000_000


@pytest.fixture
def ended(tmp_path):
    """Makes the record of an ended process; one with an error has written it to a file."""

    def ended(rank: int, error: type | None, exitcode: int = 1, after: int = 0) -> ProcessFailure:
        path = tmp_path / f"{rank}.json"
        if error is not None:
            content = {"message": f"of {rank}", "timestamp": NOW + after, "kind": error.__name__}
            path.write_text(json.dumps(content))
        failure = ProcessFailure(rank, 1000 + rank, exitcode, str(path))
        failure.timestamp = NOW + after
        return failure

    return ended


def test_an_error_comes_before_the_sigterm_that_the_launcher_sent_for_it(ended):
    # In the same second: an ended process with an error file has no earlier time than the others.
    failures = {0: ended(0, None, -signal.SIGTERM), 1: ended(1, ConfigError)}
    assert str(_first_error(failures)) == "process 1: of 1"
    failures = {0: ended(0, None, -signal.SIGTERM), 1: ended(1, None, -signal.SIGKILL, after=1)}
    assert str(_first_error(failures)).startswith("process 1 was killed by SIGKILL")


@pytest.mark.parametrize("consequence", [ProcessLostError, TrainingInterruptedError])
def test_an_error_comes_before_its_consequences_in_others(ended, consequence):
    for cause in (ended(1, ConfigError, after=9), ended(1, None, -signal.SIGKILL, after=9)):
        assert "process 1" in str(_first_error({0: ended(0, consequence), 1: cause}))


def test_a_process_that_was_stopped_comes_before_a_lost_connection(ended):
    failures = {0: ended(0, ProcessLostError), 1: ended(1, None, -signal.SIGTERM, after=9)}
    assert str(_first_error(failures)).startswith("process 1 was killed by SIGTERM")


def test_of_equals_the_earliest_then_the_lowest_number_is_named(ended):
    failures = {2: ended(2, ConfigError), 1: ended(1, ConfigError, after=1)}
    assert str(_first_error(failures)) == "process 2: of 2"
    assert str(_first_error({2: ended(2, ConfigError), 1: ended(1, ConfigError)})).endswith("of 1")


def test_an_interrupted_training_has_printed_its_message(ended):
    error = _first_error({rank: ended(rank, TrainingInterruptedError) for rank in (0, 1)})
    assert isinstance(error, SystemExit) and error.code == 1
