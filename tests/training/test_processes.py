"""A training in several processes: the same numbers, one record, no survivors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from sg3flow.files import sha256_file

WORKER = Path(__file__).with_name("steps_worker.py")
STAGE = Path(__file__).parents[2] / "stages" / "train.py"
SETTINGS = [
    "--batch=50", "--gamma=0.1", "--cond=1", "--cbase=128", "--cmax=4", "--map-depth=1",
    "--mbstd-group=5", "--kimg=1", "--tick=1", "--snap=1", "--workers=0", "--grid=2x2",
    "--device=cpu",
]  # fmt: skip


def start(data: Path, folder: Path, *options: str, program=(sys.executable,)):
    environment = os.environ | {
        "SG3FLOW_STATE_DIR": str(folder / "state"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
    }
    command = [*program, str(STAGE), "--data", str(data), "--run-dir", str(folder / "out")]
    return subprocess.Popen(
        [*command, *SETTINGS, *options],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def saved_nimg(folder: Path) -> int:
    states = (folder / "state").glob("*/states/*.json")
    return max((json.loads(p.read_text())["nimg"] for p in states), default=-1)


def ranks_of(process) -> list[psutil.Process]:
    """The training processes below a launcher, first rank first."""
    children = psutil.Process(process.pid).children()
    trainings = [c for c in children if str(STAGE) in c.cmdline()]
    return sorted(trainings, key=lambda c: int(c.environ()["RANK"]))


def wait_for_training(process, folder: Path) -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while saved_nimg(folder) < 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # into the steps
    return ranks_of(process)


TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
)  # fmt: skip


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan2"])
def test_two_processes_compute_what_one_does(cfg, tiny_set, tmp_path):
    # In float64, so that rounding hides nothing: augmentation, ADA, style mixing, noise, path
    # length, minibatch deviation, moving averages and statistics included.
    states = []
    for program in ((sys.executable,), TORCHRUN):
        out = tmp_path / f"{len(states)}.pt"
        command = [*program, str(WORKER), cfg, str(tiny_set), str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
        states.append(torch.load(out, weights_only=True))
    one, two = states
    for name in ("G", "D", "G_ema"):
        for key, value in one["networks"][name].items():
            found = two["networks"][name][key]
            assert torch.allclose(found, value, rtol=1e-7, atol=1e-9), (name, key)
    for key in ("ada_moments", "pl_mean", "augment_p"):
        assert torch.allclose(two[key], one[key], rtol=1e-5), key
    for name, stat in one["stats"].items():
        assert torch.allclose(two["stats"][name], stat, rtol=1e-5, atol=1e-6), name


def test_a_dead_process_ends_the_others_and_the_same_command_goes_on(tiny_set, tmp_path):
    # The processes share the work of the metrics too.
    options = ["--cfg=stylegan3-t", "--gpus=2", "--metrics=fd_random20_full"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(tiny_set, straight, *options))

    process = start(tiny_set, killed, *options)
    ranks = wait_for_training(process, killed)
    assert len(ranks) == 2
    ranks[1].kill()
    died = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - died < 60
    assert process.returncode == 1
    assert "process 1 was ended by SIGKILL" in output.splitlines()[-1]
    assert not any(rank.is_running() for rank in ranks)

    # Asked to stop, all of them end their step and save.
    for seconds in (1.0, 4.0, 16.0):  # a busy machine has done nothing in the first second
        if saved_nimg(killed) > 0:
            break
        process = start(tiny_set, killed, *options)
        assert process.stdout is not None
        next(line for line in process.stdout if "going on at" in line)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "the state is saved and the same command goes on from there" in output
    assert 0 < saved_nimg(killed) < 1000

    output = finish(start(tiny_set, killed, *options))
    assert "going on at" in output
    name = "network-snapshot-000001.pkl"
    assert sha256_file(killed / "out" / name) == sha256_file(straight / "out" / name)
    rows = (killed / "out" / "stats.jsonl").read_text().splitlines()
    assert [json.loads(row)["nimg"] for row in rows] == [0, 1000]
    metrics = [
        [json.loads(row)["results"] for row in path.read_text().splitlines()]
        for path in (f / "out" / "metric-fd_random20_full.jsonl" for f in (killed, straight))
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 2


def test_the_launcher_takes_its_processes_along(tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=2")
    ranks = wait_for_training(process, tmp_path)
    assert len(ranks) == 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive


@pytest.mark.slow
def test_torchrun_starts_it_too_and_restarts_it(tiny_set, tmp_path):
    program = (*TORCHRUN, "--max-restarts=1")
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=2", program=program)
    ranks = wait_for_training(process, tmp_path)
    ranks[1].kill()
    output = finish(process)
    assert "going on at" in output
    assert (tmp_path / "out" / "network-snapshot-000001.pkl").exists()


def test_the_number_of_processes_must_be_that_of_the_settings(tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=4", program=TORCHRUN)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "train.gpus is 4 processes in all, and torchrun started 2" in output


def test_errors_of_the_settings_come_once_and_before_any_process(tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--cfg=stylegan3-t", "--gpus=3")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    [line] = [line for line in output.splitlines() if line]
    assert line.startswith("error: train.batch (50) must be a multiple of gpus * batch_gpu")
