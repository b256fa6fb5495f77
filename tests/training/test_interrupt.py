"""Signals that ask a training to stop."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from sg3flow import interrupts
from sg3flow.training.launcher import stop_requests


@pytest.fixture
def heard(monkeypatch):
    """No signal is ignored; a shell that runs the tests in the background ignores SIGINT."""
    monkeypatch.setattr(interrupts, "_has_raised", False)  # and afterwards
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


def test_before_the_first_poll_there_is_nothing_to_save(heard):
    with stop_requests() as asked:
        signal.raise_signal(signal.SIGTERM)  # remembered: the loop has not begun
        assert asked()
    with pytest.raises(KeyboardInterrupt), stop_requests():
        signal.raise_signal(signal.SIGINT)
    with stop_requests() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


STAGE = Path(__file__).parents[2] / "stages" / "train.py"
SETTINGS = [
    "--cfg=stylegan3-t", "--batch=40", "--gamma=0.1", "--cbase=64", "--cmax=2", "--map-depth=1",
    "--kimg=1", "--tick=1", "--snap=1", "--workers=1", "--grid=2x2", "--device=cpu", "--aug=noaug",
]  # fmt: skip
SAVING = (
    "interrupted: the state is saved after the step, or the measurement, in progress; press Ctrl-C "
    "again to end at once"
)


@pytest.fixture
def start(start_in_terminal, training_environment, tiny_set, tmp_path):
    """Starts a training like a terminal, with an event within a step."""

    def start(within_a_step: str, gpus: int = 1) -> subprocess.Popen[str]:
        command = [STAGE, "--data", tiny_set, "--run-dir", tmp_path / "out", *SETTINGS]
        environment = training_environment(tmp_path, within_a_step)
        return start_in_terminal([*command, f"--gpus={gpus}"], environment)

    return start


def saved_nimg(folder: Path) -> list[int]:
    states = (folder / "state").glob("*/states/*.json")
    return sorted(json.loads(path.read_text())["nimg"] for path in states)


def read_until(process, words: str) -> None:
    assert any(words in line for line in process.stdout), words


@pytest.mark.medium
def test_ctrl_c_within_a_step_is_answered_and_the_state_is_saved(start, tmp_path):
    process = start("3 0 interrupted")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and SAVING in output and "Traceback" not in output
    assert "stopped at 120 of 1000 images as requested" in output.splitlines()[-1]
    assert saved_nimg(tmp_path)[-1] == 3 * 40


@pytest.mark.medium
def test_a_second_ctrl_c_ends_a_step_that_computes(start, tmp_path):
    process = start("1 0 computes")
    read_until(process, "within step 1")
    os.killpg(process.pid, signal.SIGINT)
    read_until(process, SAVING)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "error: ended at once; run the same command again to continue"
    assert saved_nimg(tmp_path) == [0]


@pytest.mark.medium
def test_a_second_ctrl_c_ends_all_processes_of_a_training(start, tmp_path):
    process = start("1 0 computes", gpus=2)
    read_until(process, "within step 1")
    ranks = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    read_until(process, SAVING)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in output
    assert len(ranks) >= 2 and not psutil.wait_procs(ranks, timeout=60)[1]
