"""A training in several processes: equal numbers, one record, and no processes left over."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import steps_worker
import torch
from joined_processes import results_of, run_joined

from sg3flow.cli import run_stage
from sg3flow.files import sha256_file
from sg3flow.training import launcher

pytestmark = pytest.mark.medium

STAGE = Path(__file__).parents[2] / "stages" / "train.py"
SETTINGS = [
    "--batch=100", "--gamma=0.1", "--cond=1", "--cbase=128", "--cmax=4", "--map-depth=1",
    "--mbstd-group=5", "--kimg=1", "--tick=1", "--snap=1", "--workers=0", "--grid=2x2",
    "--device=cpu",
]  # fmt: skip


@pytest.fixture
def start(training_environment):
    """Starts the stage in its own folder; processes that a test leaves are killed at its end."""
    started = []

    def start(
        data: Path,
        folder: Path,
        *options: str,
        program=(sys.executable,),
        within_a_step: str = "0 0 none",
    ):
        command = [*program, str(STAGE), "--data", str(data), "--run-dir", str(folder / "out")]
        environment = training_environment(folder, within_a_step)
        process = subprocess.Popen(
            [*command, *SETTINGS, *options],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def saved_nimg(folder: Path) -> int:
    states = (folder / "state").glob("*/states/*.json")
    return max((json.loads(p.read_text())["nimg"] for p in states), default=-1)


def ranks_of(process) -> list[psutil.Process]:
    """The training processes below a launcher."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if trains(child.cmdline())]


def trains(command: list[str]) -> bool:
    """Whether a process was started by torchrun, or as one of several by our own launcher."""
    return str(STAGE) in command or {"-m", "sg3flow", "train"} <= set(command)


def trainings_in(folder: Path) -> list[psutil.Process]:
    """All processes that train in a folder."""
    found = [
        (process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    ]
    return [process for process, line in found if trains(line) and str(folder / "out") in line]


TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
)  # fmt: skip


@pytest.mark.parametrize(
    ("cfg", "num_steps", "graphs"),
    # Five steps: ADA moves p after four, and the path lengths of the fifth see it.
    [("stylegan3-t", 2, False), ("stylegan2", 5, False), ("stylegan2", 2, True)],
)
def test_two_processes_compute_what_one_does(cfg, num_steps, graphs, tiny_set):
    # In float64, so that rounding hides nothing: augmentation, ADA, style mixing, noise, path
    # length, minibatch deviation, moving averages and statistics included.
    one = steps_worker.steps(cfg, num_steps, tiny_set)
    two, _ = results_of(2, steps_worker.steps, cfg, num_steps, tiny_set, graphs)
    for name in ("G", "D", "G_ema"):
        for key, value in one["networks"][name].items():
            found = two["networks"][name][key]
            assert torch.allclose(found, value, rtol=1e-7, atol=1e-9), (name, key)
    for key in ("ada_moments", "pl_mean", "augment_p"):
        assert torch.allclose(two[key], one[key], rtol=1e-5), key
    for name, stat in one["stats"].items():
        assert torch.allclose(two["stats"][name], stat, rtol=1e-5, atol=1e-6), name


def test_an_interrupted_training_of_two_processes_ends_as_an_uninterrupted_one(
    start, tiny_set, tmp_path, training_environment
):
    # The processes share the work of the metrics too.
    options = ["--cfg=stylegan2", "--gpus=2", "--metrics=fd_random20_full"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    # One dies: so do the others.
    process = start(tiny_set, killed, *options, within_a_step="3 1 killed")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "process 1 was killed by SIGKILL" in output.splitlines()[-1]
    assert not trainings_in(killed)
    assert saved_nimg(killed) == 0

    # The launcher dies: its processes end their step and save.
    process = start(tiny_set, killed, *options, within_a_step="3 0 waits")
    assert any("within step 3" in line for line in process.stdout)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(ranks, timeout=300)
    assert not alive
    assert saved_nimg(killed) == 3 * 100

    # The launcher is asked to stop: all of them end their step and save.
    process = start(tiny_set, killed, *options, within_a_step="3 0 stops-launcher")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "resuming from the saved state at 300 images" in output
    assert "the state is saved and the same command resumes from it" in output
    assert saved_nimg(killed) == 6 * 100

    for folder in (killed, straight):
        line = ["--data", str(tiny_set), "--run-dir", str(folder / "out"), *SETTINGS, *options]
        both = run_joined(
            2, steps_worker.train_stage, line, environment=training_environment(folder)
        )
        assert [each.exitcode for each in both] == [0, 0], [each.output for each in both]
        assert ("resuming from the saved state at 600 images" in both[0].output) == (
            folder == killed
        )
    name = "network-snapshot-000001.pkl"
    assert sha256_file(killed / "out" / name) == sha256_file(straight / "out" / name)
    rows = (killed / "out" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(row)["nimg"] for row in rows] == [0, 1000]
    metrics = [
        [json.loads(row)["results"] for row in path.read_text().splitlines()]
        for path in (f / "out" / "metric-fd_random20_full.jsonl" for f in (killed, straight))
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 2


@pytest.mark.slow
def test_torchrun_starts_it_too_and_restarts_it(start, tiny_set, tmp_path):
    program = (*TORCHRUN, "--max-restarts=1")
    options = ("--cfg=stylegan3-t", "--gpus=2")
    process = start(tiny_set, tmp_path, *options, program=program, within_a_step="3 0 killed")
    output = finish(process)
    assert "within step 3" in output and "resuming from the saved state at" in output
    assert (tmp_path / "out" / "network-snapshot-000001.pkl").exists()


def test_the_number_of_processes_must_be_that_of_the_settings(
    tiny_set, tmp_path, training_environment
):
    options = ["--data", str(tiny_set), "--run-dir", str(tmp_path / "out"), *SETTINGS]
    line = [*options, "--cfg=stylegan3-t", "--gpus=4"]
    both = run_joined(2, steps_worker.train_stage, line, environment=training_environment(tmp_path))
    for ended in both:
        assert ended.exitcode == 1
        assert "train.gpus is 4 processes in total, and torchrun started 2" in ended.output


def test_errors_of_the_settings_come_once_and_before_any_process(
    tiny_set, tmp_path, monkeypatch, capsys
):
    options = ["--data", str(tiny_set), "--run-dir", str(tmp_path / "out"), *SETTINGS]
    monkeypatch.setattr(sys, "argv", [str(STAGE), *options, "--cfg=stylegan3-t", "--gpus=3"])
    monkeypatch.setattr(launcher, "launch", lambda *_: pytest.fail("processes were started"))
    with pytest.raises(SystemExit) as ended:
        run_stage("train", help="")
    assert ended.value.code == 1
    [line] = [line for line in "".join(capsys.readouterr()).splitlines() if line]
    assert line.startswith("error: train.batch (100) must be a multiple of gpus * batch_gpu")
