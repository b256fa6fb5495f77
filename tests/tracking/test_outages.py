"""Real MLflow servers that are away, die, hang, have no room, or do not know us."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.config import PackConfig
from sg3flow.errors import TrackingError
from sg3flow.runs.run_folder import describe_run, read_whole_lines
from sg3flow.tracking.mlflow_store import connect, training_run_id
from sg3flow.tracking.upload_process import tracked_stage, uploading
from sg3flow.tracking.uploader import Uploader

pytestmark = pytest.mark.medium

TICKER = Path(__file__).with_name("ticker.py")
_PATIENCE_SEC = 300.0


def sync(*folders: Path):
    return CliRunner().invoke(app, ["sync", *map(str, folders)])


def warnings_of(text: str) -> list[str]:
    """The lines of a stage's standard error, without those that say what is waited for."""
    return [line for line in text.splitlines() if not line.startswith("waiting for ")]


def wait_until(condition) -> None:
    deadline = time.monotonic() + _PATIENCE_SEC
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def points(folder: Path) -> int:
    """Points the server has of a run."""
    try:
        run_id = training_run_id(folder)
        return len(connect().client.get_metric_history(run_id, "loss/G")) if run_id else 0
    except TrackingError:
        return 0


@pytest.fixture
def ticker(own_project):
    """A run that reports and reports, in a process of its own; its folder and the process."""
    folder = own_project / "state" / "ticking" / "run"
    folder.mkdir(parents=True)
    data = {"name": "set", "digest": "cd" * 32}
    content = {"name": "ticker", "params": {"kimg": 9}, "training_set": data}
    describe_run(folder, content | {"fingerprint": "t", "command": "ticker.py"})
    started = []

    def start():
        command = [sys.executable, str(TICKER), str(folder)]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **silent))
        return folder, started[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stop_ticking(process) -> str:
    Path("stop").touch()
    said = process.communicate(timeout=_PATIENCE_SEC)[1]
    assert process.returncode == 0, said
    return said


def check_all_there(folder: Path) -> None:
    """Every line of the folder's is on the server, once, in one run."""
    store = connect()
    [run] = store.client.search_runs([store.experiment_id])
    run_id = run.info.run_id
    assert run.info.status == "FINISHED"
    rows = read_whole_lines(folder / "stats.jsonl")
    history = store.client.get_metric_history(run_id, "loss/G")
    assert sorted(m.step for m in history) == [row["nimg"] // 1000 for row in rows]
    images = [a.path for a in store.client.list_artifacts(run_id, "images")]
    steps = sorted(int(p.split("+")[2]) for p in images if p.endswith(".png"))
    assert steps == list(range(len(rows)))
    models = store.client.search_logged_models([store.experiment_id], max_results=1000)
    snapshots = sorted(path.stem for path in folder.glob("network-*.pkl"))
    assert sorted(model.name for model in models) == snapshots
    for model in models:
        assert str(model.status) == "READY" and [m.key for m in model.metrics] == ["metrics/fid"]
        [weights] = store.client.list_logged_model_artifacts(model.model_id)
        assert weights.file_size == 1000


def wait_for_rows(folder: Path, more: int) -> None:
    """Wait until the run has that many more reports."""
    rows = len(read_whole_lines(folder / "stats.jsonl"))
    wait_until(lambda: len(read_whole_lines(folder / "stats.jsonl")) > rows + more)


def wait_for_points(folder: Path) -> None:
    """Wait until the server has more of a run than it has now."""
    known = points(folder)
    wait_until(lambda: points(folder) > known)


def live_through_outages(server, ticker) -> None:
    """Absent at the start, killed and restarted three times, hung and woken, during one run."""
    folder, process = ticker()
    wait_for_rows(folder, 3)
    for _ in range(3):
        server.start()
        wait_for_points(folder)
        server.stop()
        wait_for_rows(folder, 3)
    server.start()
    wait_for_points(folder)
    server.signal(signal.SIGSTOP)
    wait_for_rows(folder, 60)  # for more than the 10 s that a request may take
    server.signal(signal.SIGCONT)
    assert process.poll() is None
    lines = warnings_of(stop_ticking(process))
    retried = "the stage continues, and the upload is retried"
    assert all(line.endswith(retried) for line in lines), lines
    check_all_there(folder)


def test_a_run_through_every_outage_arrives_whole(make_server, ticker):
    live_through_outages(make_server(), ticker)


@pytest.mark.slow
def test_a_run_through_every_outage_arrives_whole_on_postgres(make_server, postgres, ticker):
    live_through_outages(make_server(postgres.uri), ticker)


@pytest.mark.slow
def test_a_database_that_goes_away_below_its_server(make_server, postgres, ticker):
    server = make_server(postgres.uri)
    server.start()
    folder, process = ticker()
    for _ in range(2):
        wait_for_points(folder)
        postgres.stop()
        wait_for_rows(folder, 20)
        postgres.start()
    stop_ticking(process)
    assert sync().exit_code == 0
    check_all_there(folder)


def test_postgres_takes_everything_once(make_server, postgres, run_folder, is_complete):
    make_server(postgres.uri).start()
    for _ in range(2):
        Uploader(run_folder).send()
        is_complete(run_folder)
        [place] = Path("state/sent").glob("*.json")
        place.unlink()  # how far it got is lost


def test_without_a_server_work_goes_on_and_one_line_says_what_is_left(run_folder, capfd):
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # no server listens there
    with uploading(run_folder):
        pass
    [line] = warnings_of(capfd.readouterr().err)
    assert line.startswith("warning: MLflow at http://127.0.0.1:9 cannot be reached")
    assert "17 lines and 6 files" in line and "`sg3flow sync`" in line


def test_a_server_that_hangs_is_not_waited_for(server, run_folder, is_complete, capfd):
    server.signal(signal.SIGSTOP)
    try:
        with uploading(run_folder):
            pass
        with tracked_stage("pack", PackConfig()) as stage:
            stage.metrics({"num_packed": 3})
        said = capfd.readouterr().err
        assert f"waiting for the upload to MLflow at {server.uri}\n" in said
        lines = warnings_of(said)
        assert len(lines) == 2 and all("does not answer" in line for line in lines), lines
    finally:
        server.signal(signal.SIGCONT)
    # Requests that timed out may succeed now, while the same data are sent again.
    assert sync().stdout.count("all sent") == 2
    assert sync().stdout.count("nothing to send") == 2
    is_complete(run_folder)
    store = connect()
    [run] = store.client.search_runs([store.experiment_id], "tags.`sg3flow.stage` = 'pack'")
    assert run.info.status == "FINISHED" and run.data.metrics == {"data/num_packed": 3.0}


def test_no_room_for_artifacts(server, own_project, write_run_folder, is_complete, capfd):
    """Files beyond 4 MB cannot be written; the database, smaller than that, can."""
    folder = write_run_folder(own_project / "state" / "x" / "run", snapshot_bytes=8 << 20)
    limit_files(server, 4 << 20)
    try:
        with uploading(folder):
            pass
        [line] = warnings_of(capfd.readouterr().err)
        assert (
            line.startswith("warning: MLflow at ") and "are not sent yet: run `sg3flow sync" in line
        )
        assert "1 lines and 1 files" in line
        store = connect()
        run = store.client.get_run(training_run_id(folder))  # all but the snapshot is there
        assert run.info.status == "FINISHED" and run.data.metrics["metrics/fid"] == 5.0
        assert sync().exit_code == 1
    finally:
        limit_files(server, resource.RLIM_INFINITY)
    assert sync().exit_code == 0
    is_complete(folder)


def limit_files(server, size: int) -> None:
    for pid in server.process_ids():
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def test_wrong_credentials_then_right_ones(
    make_server, run_folder, is_complete, monkeypatch, capfd
):
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": "right horse battery"}
    secrets |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test"}
    make_server("", "--app-name", "basic-auth", **secrets).start()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong horse")
    with uploading(run_folder):
        pass
    [line] = warnings_of(capfd.readouterr().err)
    assert "refuses us; check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in line
    result = sync()
    assert result.exit_code == 1 and "refuses us" in result.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "right horse battery")
    assert sync().exit_code == 0
    is_complete(run_folder)
    assert "horse" not in "".join(p.read_text() for p in Path("state").rglob("*.json*"))
