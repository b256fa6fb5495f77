"""MLflow as a mirror of a run folder: complete, without doubles, whatever the server does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from sg3flow.errors import TrackingError
from sg3flow.reporting import JsonlReporter, Stat
from sg3flow.tracking.mirror import FolderMirror, mirrored
from sg3flow.tracking.store import connect, training_run_id
from sg3flow.training.folder import describe_run

TICKS = 4


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """What a training of four ticks leaves: statistics, pictures, one snapshot."""
    folder = tmp_path / "run"
    folder.mkdir()
    data = {"name": "set", "digest": "ab" * 32, "num_images": 3, "resolution": 16}
    content = {
        "fingerprint": "f" * 12,
        "name": "a-run",
        "command": "python stages/train.py",
        "params": {"gamma": 0.5, "kimg": TICKS - 1},
        "training_set": data,
    }
    describe_run(folder, content)
    reporter = JsonlReporter(folder)
    (folder / "network-snapshot-000003.pkl").write_bytes(b"weights")
    for tick in range(TICKS):
        picture = folder / f"fakes{tick:06d}.png"
        Image.new("RGB", (8, 8), (tick, 0, 0)).save(picture)
        reporter.stats({"Loss/G/loss": Stat(8, tick / 10, 0.0)}, tick * 1000)
        reporter.image(picture, "samples", tick * 1000)
    reporter.snapshot(folder / "network-snapshot-000003.pkl", 3000, "ab" * 32)
    return folder


@pytest.fixture
def local_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)


def check_complete(folder: Path, status: str = "FINISHED"):
    store = connect()
    [run] = store.client.search_runs([store.experiment_id])
    assert run.info.status == status
    assert run.data.params == {"gamma": "0.5", "kimg": "3"}
    assert run.data.tags["sg3flow.uid"] == json.loads((folder / "run.json").read_text())["uid"]
    history = store.client.get_metric_history(run.info.run_id, "Loss/G/loss")
    assert sorted((m.step, m.value) for m in history) == [(t, t / 10) for t in range(TICKS)]
    pictures = [a.path for a in store.client.list_artifacts(run.info.run_id, "images")]
    assert len([p for p in pictures if p.endswith(".png")]) == TICKS
    [dataset] = run.inputs.dataset_inputs
    assert dataset.dataset.digest == ("ab" * 8)
    [model] = store.client.search_logged_models([store.experiment_id])
    assert model.name == "network-snapshot-000003" and str(model.status) == "READY"


def test_everything_arrives_once_however_often_it_is_sent(run_folder, local_store):
    FolderMirror(run_folder).finish("FINISHED")
    check_complete(run_folder)
    FolderMirror(run_folder).finish("FINISHED")
    check_complete(run_folder)
    run_id = training_run_id(run_folder)
    (run_folder / "mirror.json").unlink()  # how far it got is lost: metrics may go twice
    FolderMirror(run_folder).finish("FINISHED")
    assert training_run_id(run_folder) == run_id
    check_complete(run_folder)


def test_block_sends_while_it_runs_and_marks_how_it_ended(run_folder, local_store):
    with mirrored(run_folder):
        pass
    check_complete(run_folder)
    with pytest.raises(ZeroDivisionError), mirrored(run_folder):
        raise ZeroDivisionError
    check_complete(run_folder, "FAILED")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "-w", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.2)
    stop_server(server)
    raise AssertionError("the MLflow server did not start")


def stop_server(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_server_that_is_away_costs_nothing_and_gets_everything_later(
    run_folder, tmp_path, monkeypatch, capsys
):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    with mirrored(run_folder):
        pass
    assert time.monotonic() - start < 30
    assert "sg3flow sync" in capsys.readouterr().err
    with pytest.raises(TrackingError, match="check MLFLOW_TRACKING_URI"):
        FolderMirror(run_folder).send_new()
    server = start_server(tmp_path, port)
    try:
        FolderMirror(run_folder).finish("FINISHED")
        check_complete(run_folder)
    finally:
        stop_server(server)
