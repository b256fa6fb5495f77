"""Real trainings that are killed while a real server listens: their run has no gap, no double."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from sg3flow.runs.run_folder import read_whole_lines
from sg3flow.tracking.mlflow_store import connect
from sg3flow.tracking.upload_process import sync_folder

STAGE = Path(__file__).parents[2] / "stages" / "train.py"
SETTINGS = [
    "--cfg=stylegan3-t", "--gpus=1", "--batch=20", "--gamma=0.1", "--cbase=128", "--cmax=4",
    "--map-depth=1", "--tick=1", "--snap=1", "--workers=1", "--grid=2x2", "--device=cpu",
    "--metrics=fd_random20_full",
]  # fmt: skip


@pytest.fixture
def packed(own_project) -> Path:
    """24 images of one color, of 16 x 16."""
    folder = own_project / "packed" / "00000"
    folder.mkdir(parents=True)
    for number in range(24):
        image = Image.new("RGB", (16, 16), (10 * number, 99, 255 - 10 * number))
        image.save(folder / f"img{number:08d}.png")
    return folder.parent


def start(data: Path, kimg: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(STAGE), "--data", str(data), "--run-dir", "out"]
    return subprocess.Popen(
        [*command, *SETTINGS, f"--kimg={kimg}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def kill_again_and_again(data: Path, kimg: int, kills: int) -> None:
    """Kill the training at a random moment, and every other time its upload process, too."""
    moments = random.Random(kills)
    for number in range(kills):
        process = start(data, kimg)
        assert process.stdout is not None
        if number == 0:  # the very first start takes long
            next((line for line in process.stdout if line.startswith("tick")), None)
        time.sleep(moments.uniform(0.0, 8.0))
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for child in children if number % 2 else []:
            child.kill()
        process.communicate(timeout=120)


def check_survives(data: Path, kimg: int, kills: int) -> None:
    kill_again_and_again(data, kimg, kills)
    process = start(data, kimg)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0 and "warning" not in said, said
    [line] = sync_folder(Path("state"))
    assert line.endswith("nothing to send")
    store = connect()
    [run] = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FINISHED"
    for row in read_whole_lines(Path("out/stats.jsonl"))[-1:]:
        assert row["nimg"] == kimg * 1000
    for name in ("loss/G", "progress/kimg", "metrics/fd_random20_full"):
        history = store.client.get_metric_history(run.info.run_id, name)
        first = 1 if name == "loss/G" else 0
        assert sorted(m.step for m in history) == list(range(first, kimg + 1)), name
    images = [a.path for a in store.client.list_artifacts(run.info.run_id, "images")]
    shown = sorted(p.split("+timestamp")[0] for p in images if p.endswith(".png"))
    samples = [f"images/samples+step+{k}" for k in range(kimg + 1)]
    assert shown == sorted(["images/reals+step+0", *samples])
    models = store.client.search_logged_models([store.experiment_id])
    names = [f"network-snapshot-{k:06d}" for k in range(kimg + 1)]
    assert sorted(model.name for model in models) == names
    assert all(str(model.status) == "READY" and len(model.metrics) == 1 for model in models)


@pytest.mark.slow  # tests/training/test_resume.py kills three times in `make test`
def test_three_kills_leave_no_gap_and_no_double(server, packed):
    check_survives(packed, kimg=1, kills=3)


@pytest.mark.slow
def test_twenty_kills_leave_no_gap_and_no_double(server, packed):
    check_survives(packed, kimg=4, kills=20)
