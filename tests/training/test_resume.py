"""A training that is killed at any moment resumes with the results of an uninterrupted one."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sg3flow.files import sha256_file
from sg3flow.tracking.mlflow_store import connect
from sg3flow.training import work_folder
from sg3flow.training.work_folder import StateFolder

STAGE = Path(__file__).parents[2] / "stages" / "train.py"
SETTINGS = [
    "--cfg=stylegan3-t", "--gpus=1", "--batch=40", "--batch-gpu=40", "--gamma=0.1", "--cond=1",
    "--cbase=128", "--cmax=4", "--map-depth=1", "--kimg=1", "--tick=1", "--snap=1", "--workers=1",
    "--grid=2x2", "--device=cpu", "--metrics=fd_random20_full",
]  # fmt: skip


# About what one start takes from beginning to end: a killed one gets anywhere within.
LIFE_SEC = 6.0


@pytest.fixture(scope="module")
def start(training_environment):
    """Starts the stage in its own folder: `start(data, folder, *options, within_a_step=)`."""

    def start(
        data: Path, folder: Path, *options: str, within_a_step: str = "0 0 none"
    ) -> subprocess.Popen[str]:
        command = [sys.executable, str(STAGE), "--data", str(data), "--run-dir", folder / "out"]
        return subprocess.Popen(
            [*map(str, command), *SETTINGS, *options],
            env=training_environment(folder, within_a_step, tracked=True),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


def images_done(folder: Path) -> int:
    states = list((folder / "state").glob("*/states/*.json"))
    return max((json.loads(p.read_text())["nimg"] for p in states), default=-1)


def wait_until(condition, process, limit_sec=120.0):
    deadline = time.monotonic() + limit_sec
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(start, tiny_set, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(tiny_set, folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def runs_in_mlflow(folder: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        store = connect()
    found = []
    for run in store.client.search_runs([store.experiment_id]):
        history = store.client.get_metric_history(run.info.run_id, "loss/G")
        images = store.client.list_artifacts(run.info.run_id, "images")
        names = [a.path.split("+timestamp")[0] for a in images if a.path.endswith(".png")]
        found.append((run.info.status, [m.step for m in history], names))
    return found


def kill_at_random(start, data: Path, folder: Path, kills: int, *options: str) -> None:
    """Start and kill a training repeatedly, each time at a random moment."""
    moments, codes = random.Random(kills), []
    for _ in range(kills):
        process = start(data, folder, *options)
        # The very first start-up takes long; then anywhere: while the state is read, in a step, in
        # an evaluation, while a snapshot or a state is written.
        wait_until(lambda: images_done(folder) >= 0, process)
        if not codes and images_done(folder) > 0:
            assert any("resuming from the saved state at" in line for line in process.stdout)
        time.sleep(moments.uniform(0.0, LIFE_SEC))
        process.kill()
        output, _ = process.communicate(timeout=60)
        # Its readers outlive a killed training for some seconds: they must not keep the folder.
        assert "another process" not in output
        codes.append(process.returncode)
    assert -signal.SIGKILL in codes, codes  # not all of them had ended before


def stop_within_a_step(start, data: Path, folder: Path) -> None:
    """A stop requested within the third step: the step ends, and its state is saved."""
    process = start(data, folder, within_a_step="3 0 stopped")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert "the same command resumes from it" in output.splitlines()[-1]
    assert images_done(folder) == 3 * 40


def finish(start, data: Path, folder: Path, *options: str) -> None:
    process = start(data, folder, *options)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output


def check_same_results(folder: Path, wanted: Path, kimg: int) -> None:
    """Snapshots, statistics, metrics and MLflow's run are those of an uninterrupted training."""
    snapshots = [f"network-snapshot-{k:06d}.pkl" for k in range(kimg + 1)]
    for name in (*snapshots, *(f"fakes{k:06d}.png" for k in range(1, kimg + 1))):
        assert sha256_file(folder / "out" / name) == sha256_file(wanted / "out" / name), name
    stats, metrics = ("stats.jsonl", "metric-fd_random20_full.jsonl")
    ours, theirs = (rows_of(each / "out" / stats) for each in (folder, wanted))
    assert [row["nimg"] for row in ours] == [k * 1000 for k in range(kimg + 1)]
    for ours_row, theirs_row in zip(ours, theirs, strict=True):
        losses = {k: v for k, v in theirs_row.items() if k.startswith("Loss/")}
        assert {k: ours_row[k] for k in losses} == losses
    ours, theirs = (rows_of(each / "out" / metrics) for each in (folder, wanted))
    assert [row["results"] for row in ours] == [row["results"] for row in theirs]
    assert len(ours) == kimg + 1
    [(status, steps, images)] = runs_in_mlflow(folder)
    assert status == "FINISHED" and steps == list(range(1, kimg + 1))
    samples = [f"images/samples+step+{k}" for k in range(kimg + 1)]
    assert sorted(images) == sorted(["images/reals+step+0", *samples])


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.medium
def test_stopped_and_killed_anywhere_the_result_is_the_same(
    start, uninterrupted, tiny_set, tmp_path
):
    stop_within_a_step(start, tiny_set, tmp_path)
    kill_at_random(start, tiny_set, tmp_path, 3)
    finish(start, tiny_set, tmp_path)
    check_same_results(tmp_path, uninterrupted, kimg=1)


@pytest.mark.slow
def test_killed_twenty_times(start, tiny_set, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start, tiny_set, straight, "--kimg=4")
    kill_at_random(start, tiny_set, killed, 20, "--kimg=4")
    finish(start, tiny_set, killed, "--kimg=4")
    check_same_results(killed, straight, kimg=4)


@pytest.mark.medium
def test_a_finished_training_is_shown_again_at_once(start, uninterrupted, tiny_set):
    before = sha256_file(uninterrupted / "out" / "network-snapshot-000001.pkl")
    for path in (uninterrupted / "out").iterdir():
        path.unlink()
    finish(start, tiny_set, uninterrupted)
    assert sha256_file(uninterrupted / "out" / "network-snapshot-000001.pkl") == before
    assert (uninterrupted / "out" / "reals.png").exists()


@pytest.mark.medium
def test_only_one_process_trains_in_a_folder(start, tiny_set, tmp_path):
    first = start(tiny_set, tmp_path, within_a_step="1 0 waits")
    assert any("within step 1" in line for line in first.stdout)
    second = start(tiny_set, tmp_path)
    output, _ = second.communicate(timeout=300)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL and second.returncode == 1
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


def test_a_state_of_another_format_is_passed_over(tmp_path, caplog, monkeypatch):
    states = StateFolder(tmp_path)
    states.save({"nimg": 10})
    monkeypatch.setattr(work_folder, "_FORMAT", "sg3flow-state-0")
    states.save({"nimg": 20})
    monkeypatch.undo()
    loaded = states.load()
    assert loaded is not None and loaded["nimg"] == 10
    assert "its format is sg3flow-state-0, not sg3flow-state-1" in caplog.text
