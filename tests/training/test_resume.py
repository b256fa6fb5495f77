"""A training that is killed at any moment goes on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sg3flow.files import sha256_file
from sg3flow.training.state import StateFolder

STAGE = Path(__file__).parents[2] / "stages" / "train.py"
SETTINGS = [
    "--cfg=stylegan3-t", "--gpus=1", "--batch=20", "--batch-gpu=20", "--gamma=0.1", "--cond=1",
    "--cbase=128", "--cmax=4", "--map-depth=1", "--kimg=1", "--tick=1", "--snap=1", "--workers=1",
    "--grid=2x2", "--device=cpu",
]  # fmt: skip


def start(data: Path, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "SG3FLOW_STATE_DIR": str(folder / "state"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(STAGE), "--data", str(data), "--run-dir", str(folder / "out")]
    return subprocess.Popen(
        [*command, *SETTINGS],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def images_done(folder: Path) -> int:
    states = list((folder / "state").glob("*/states/*.json"))
    return max((json.loads(p.read_text())["nimg"] for p in states), default=-1)


def wait_until(condition, process, limit_sec=120.0):
    deadline = time.monotonic() + limit_sec
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tiny_set, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(tiny_set, folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def runs_in_mlflow(folder: Path):
    program = (
        "import json; from sg3flow.tracking.store import connect; s = connect()\n"
        "rs = s.client.search_runs([s.experiment_id])\n"
        "h = lambda r: [[m.step for m in s.client.get_metric_history(r, 'Loss/G/loss')],\n"
        "  [a.path.split('+timestamp')[0] for a in s.client.list_artifacts(r, 'images')\n"
        "   if a.path.endswith('.png')]]\n"
        "print(json.dumps([[r.info.status, *h(r.info.run_id)] for r in rs]))"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, text=True, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def test_killed_anywhere_the_result_is_the_same(uninterrupted, tiny_set, tmp_path):
    moments = random.Random(0)
    kills = 0
    for _ in range(3):
        process = start(tiny_set, tmp_path)
        # Past the start-up, then anywhere: in a step, in a report, while a state is written.
        wait_until(lambda: images_done(tmp_path) >= 0, process)
        time.sleep(moments.uniform(0.0, 2.0))
        if process.poll() is None:
            process.kill()
            kills += 1
        output, _ = process.communicate(timeout=60)
        # Its readers outlive a killed training for some seconds: they must not keep the folder.
        assert "another process" not in output
    # A stop that was asked for saves the step it is in, so that the next start has some way done.
    process = start(tiny_set, tmp_path)
    assert process.stdout is not None
    said = next(line for line in process.stdout if "going on at" in line)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said + output
    assert "the same command goes on from there" in output.splitlines()[-1]
    assert 0 < images_done(tmp_path) < 1000
    last = start(tiny_set, tmp_path)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert kills >= 1

    for name in ("network-snapshot-000000.pkl", "network-snapshot-000001.pkl", "fakes000001.png"):
        assert sha256_file(tmp_path / "out" / name) == sha256_file(uninterrupted / "out" / name)
    rows = [
        [json.loads(line) for line in (folder / "out" / "stats.jsonl").read_text().splitlines()]
        for folder in (tmp_path, uninterrupted)
    ]
    assert [row["nimg"] for row in rows[0]] == [0, 1000]
    losses = [{k: v for k, v in r[-1].items() if k.startswith("Loss/")} for r in rows]
    assert losses[0] == losses[1] and losses[0]
    [(status, steps, images)] = runs_in_mlflow(tmp_path)
    assert status == "FINISHED" and steps == [1]
    assert sorted(images) == [
        "images/reals+step+0",
        "images/samples+step+0",
        "images/samples+step+1",
    ]


def test_a_finished_training_is_shown_again_at_once(uninterrupted, tiny_set):
    before = sha256_file(uninterrupted / "out" / "network-snapshot-000001.pkl")
    for path in (uninterrupted / "out").iterdir():
        path.unlink()
    process = start(tiny_set, uninterrupted)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert sha256_file(uninterrupted / "out" / "network-snapshot-000001.pkl") == before
    assert (uninterrupted / "out" / "reals.png").exists()


def test_only_one_process_trains_in_a_folder(tiny_set, tmp_path):
    first = start(tiny_set, tmp_path)
    wait_until(lambda: images_done(tmp_path) >= 0, first)
    second = start(tiny_set, tmp_path)
    output, _ = second.communicate(timeout=120)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert "another process is training" in output.splitlines()[-1]


def test_states_that_cannot_be_used_never_push_out_the_good_one(tmp_path):
    states = StateFolder(tmp_path)
    states.save({"nimg": 500})
    for nimg in (800, 1000):  # torn: their checksum files were never written
        (tmp_path / f"state-{nimg:010d}.pt").write_bytes(b"half")
    assert states.latest_nimg() == 500
    states.save({"nimg": 700})
    loaded = states.load()
    assert loaded is not None and loaded["nimg"] == 700
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [
        "state-0000000500.pt",
        "state-0000000700.pt",
    ]


def test_a_damaged_state_is_passed_over(tmp_path, caplog):
    states = StateFolder(tmp_path)
    for nimg in (10, 20, 30):
        states.save({"nimg": nimg})
    assert len(list(tmp_path.glob("*.pt"))) == 2
    newest = tmp_path / "state-0000000030.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    loaded = states.load()
    assert loaded is not None and loaded["nimg"] == 20
    assert "checksum does not match" in caplog.text
    (tmp_path / "state-0000000020.json").unlink()
    assert states.load() is None
