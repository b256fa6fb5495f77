"""A training in several processes: equal numbers, one record, and no processes left over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from sg3flow.files import sha256_file

pytestmark = pytest.mark.medium

WORKER = Path(__file__).with_name("steps_worker.py")
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


CONFIGURATIONS = ("stylegan3-t", "stylegan2")


@pytest.fixture(scope="module")
def steps(tiny_set, tmp_path_factory) -> Path:
    """Files with the results of one and of two processes: `1-CFG.pt`, `2-CFG.pt`."""
    folder = tmp_path_factory.mktemp("steps")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for count, program in ((1, (sys.executable,)), (2, TORCHRUN)):
        command = [*program, str(WORKER), str(tiny_set), str(folder / f"{count}-"), *CONFIGURATIONS]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.parametrize("cfg", CONFIGURATIONS)
def test_two_processes_compute_what_one_does(cfg, steps):
    # In float64, so that rounding hides nothing: augmentation, ADA, style mixing, noise, path
    # length, minibatch deviation, moving averages and statistics included.
    one, two = (torch.load(steps / f"{count}-{cfg}.pt", weights_only=True) for count in (1, 2))
    for name in ("G", "D", "G_ema"):
        for key, value in one["networks"][name].items():
            found = two["networks"][name][key]
            assert torch.allclose(found, value, rtol=1e-7, atol=1e-9), (name, key)
    for key in ("ada_moments", "pl_mean", "augment_p"):
        assert torch.allclose(two[key], one[key], rtol=1e-5), key
    for name, stat in one["stats"].items():
        assert torch.allclose(two["stats"][name], stat, rtol=1e-5, atol=1e-6), name


def test_a_dead_process_ends_the_others_and_the_same_command_resumes(start, tiny_set, tmp_path):
    # The processes share the work of the metrics too.
    options = ["--cfg=stylegan3-t", "--gpus=2", "--metrics=fd_random20_full"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(tiny_set, straight, *options))

    process = start(tiny_set, killed, *options, within_a_step="3 1 killed")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "process 1 was killed by SIGKILL" in output.splitlines()[-1]
    assert not trainings_in(killed)
    assert saved_nimg(killed) == 0

    # Asked to stop, all of them end their step and save.
    process = start(tiny_set, killed, *options, within_a_step="3 0 stops-launcher")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "the state is saved and the same command resumes from it" in output
    assert saved_nimg(killed) == 3 * 100

    output = finish(start(tiny_set, killed, *options))
    assert "resuming from the saved state at" in output
    name = "network-snapshot-000001.pkl"
    assert sha256_file(killed / "out" / name) == sha256_file(straight / "out" / name)
    rows = (killed / "out" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(row)["nimg"] for row in rows] == [0, 1000]
    metrics = [
        [json.loads(row)["results"] for row in path.read_text().splitlines()]
        for path in (f / "out" / "metric-fd_random20_full.jsonl" for f in (killed, straight))
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 2


def test_the_launcher_takes_its_processes_along(start, tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=2", within_a_step="3 0 waits")
    assert any("within step 3" in line for line in process.stdout)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(ranks, timeout=300)
    assert not alive
    assert saved_nimg(tmp_path) == 3 * 100  # they ended their step and saved


@pytest.mark.slow
def test_torchrun_starts_it_too_and_restarts_it(start, tiny_set, tmp_path):
    program = (*TORCHRUN, "--max-restarts=1")
    options = ("--cfg=stylegan3-t", "--gpus=2")
    process = start(tiny_set, tmp_path, *options, program=program, within_a_step="3 0 killed")
    output = finish(process)
    assert "within step 3" in output and "resuming from the saved state at" in output
    assert (tmp_path / "out" / "network-snapshot-000001.pkl").exists()


def test_the_number_of_processes_must_be_that_of_the_settings(start, tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=4", program=TORCHRUN)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "train.gpus is 4 processes in total, and torchrun started 2" in output


def test_errors_of_the_settings_come_once_and_before_any_process(start, tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=3")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    [line] = [line for line in output.splitlines() if line]
    assert line.startswith("error: train.batch (100) must be a multiple of gpus * batch_gpu")
