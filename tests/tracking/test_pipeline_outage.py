"""All stages while the server is away, and what `sg3flow sync` makes of it afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sg3flow.tracking.mlflow_store import connect

ROOT = Path(__file__).parents[2]
STAGES = {
    "fetch": "--dataset starter --images 24 --resolution 32 --dest raw",
    "pack": "--source raw --subset starter/train --resolution 16x16 --labels folders "
    "--duplicates keep --dest packed.zip --manifest m.parquet",
    "validate": "--manifest m.parquet --packed packed.zip --report v.json --min-images 10 "
    "--duplicates warn",
    "train": "--cfg stylegan3-t --gpus 1 --batch 20 --gamma 0.1 --cbase 128 --cmax 4 "
    "--map-depth 1 --kimg 1 --tick 1 --snap 1 --workers 0 --grid 2x2 --data packed.zip "
    "--run-dir run",
    "evaluate": "snapshots --run run --data packed.zip --metrics fd_random20_full --batch 10 "
    "--report m.json --table m.csv --chart m.png",
    "render": "best --run run --metrics m.json --outdir renders --seeds 0-1 --video-seeds 0-1 "
    "--video-frames 2",
    "register": "--run run --metrics m.json --report registered.json --name tiny",
}


def run_stage(name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), *STAGES[name].split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=600)


def sync() -> str:
    program = "from sg3flow.cli import main; main()"
    command = [sys.executable, "-c", program, "sync"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_stage_without_a_server_is_made_up_for(make_server):
    server = make_server()  # which is not started yet
    for name in STAGES:
        done = run_stage(name)
        told = [line for line in done.stderr.splitlines() if line.startswith(("warn", "error"))]
        assert len(told) == 1 and "cannot be reached" in told[0], (name, done.stderr)
        if name == "register":
            assert done.returncode == 1 and told[0].endswith("then run the same command again")
        else:
            assert done.returncode == 0 and "run `sg3flow sync` later" in told[0], done.stderr
    server.start()
    assert sync().count("all sent") == 6
    done = run_stage("register")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    assert sync().count("nothing to send") == 7
    check_tree()


def check_tree() -> None:
    store = connect()
    runs = store.client.search_runs([store.experiment_id])
    by_stage = {run.data.tags["sg3flow.stage"]: run for run in runs}
    assert len(runs) == 7 and set(by_stage) == set(STAGES)
    assert {run.info.status for run in runs} == {"FINISHED"}
    training = by_stage["train"]
    for name in ("evaluate", "render", "register"):
        assert by_stage[name].data.tags["mlflow.parentRunId"] == training.info.run_id
    assert {"loss/G", "metrics/fd_random20_full"} <= set(training.data.metrics)
    images = [a.path for a in store.client.list_artifacts(training.info.run_id, "images")]
    assert any("render~grid" in path for path in images)
    models = store.client.search_logged_models([store.experiment_id])
    measured = [model for model in models if model.name.startswith("network") and model.metrics]
    assert len(measured) == 2
    renders = store.client.list_artifacts(by_stage["render"].info.run_id, "renders")
    assert "renders/interpolation.mp4" in [a.path for a in renders]
    reports = [a.path for a in store.client.list_artifacts(by_stage["validate"].info.run_id)]
    assert sorted(reports) == ["v.html", "v.json"]
    assert store.client.get_model_version_by_alias("tiny", "champion").version in (1, "1")
    [packaged] = [model for model in models if model.name == "generator"]
    assert packaged.source_run_id == training.info.run_id
