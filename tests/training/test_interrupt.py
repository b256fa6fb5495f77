"""Signals that ask a training to stop."""

import signal

import pytest

from sg3flow.training.launcher import stop_requests


@pytest.fixture
def heard():
    """No signal is ignored; a shell that runs the tests in the background ignores SIGINT."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield numbers
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_signals_are_remembered_and_handlers_put_back(heard):
    before = signal.getsignal(signal.SIGTERM)
    for number in heard:
        with stop_requests() as asked:
            assert not asked()
            signal.raise_signal(number)  # to this very thread: torch has others
            assert asked()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)
