"""Run folders on their way to MLflow: complete, without doubles, from wherever they lie."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.config import EvaluateConfig
from sg3flow.errors import TrackingError, TrainingMissingError
from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import JsonlReporter
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import connect, time_to_upload, tracking_uri, training_run_id
from sg3flow.tracking.outbox import Outbox, load_offset, single_uploader
from sg3flow.tracking.tracked_runs import find_record, registered_version, training_id
from sg3flow.tracking.upload_process import tracked_stage, uploading
from sg3flow.tracking.uploader import Uploader


def sync(*folders: Path):
    return CliRunner().invoke(app, ["sync", *map(str, folders)])


def test_everything_arrives_once_however_often_it_is_sent(run_folder, is_complete):
    Uploader(run_folder).send()
    is_complete(run_folder)
    run_id = training_run_id(run_folder)
    for _ in range(2):
        Uploader(run_folder).send()
        shutil.rmtree("state/sent")  # how far it got is lost: all goes again
    assert training_run_id(run_folder) == run_id
    is_complete(run_folder)


@pytest.mark.medium
def test_a_cut_at_any_request_leaves_nothing_out(run_folder, is_complete, monkeypatch):
    """Every request fails once, after the server has done what it asks: the answer is lost."""
    from mlflow import MlflowClient

    # A store elsewhere, to which everything is sent.
    monkeypatch.setattr("sg3flow.tracking.event_upload.link_artifact", lambda *given: False)
    failed = set()
    calls = (
        "create_run", "log_batch", "log_inputs", "update_run", "log_artifact", "set_tag",
        "create_logged_model", "log_outputs", "log_model_artifact", "finalize_logged_model",
        "log_metric", "set_terminated",
    )  # fmt: skip
    for name in calls:
        monkeypatch.setattr(MlflowClient, name, _failing_once(MlflowClient, name, failed))
    for _ in range(len(calls) + 1):
        try:
            Uploader(run_folder).send()
        except TrackingError as error:
            assert "lost answer" in str(error)
    assert failed == set(calls) - {"update_run"}  # which only a live run needs
    is_complete(run_folder)


def _failing_once(owner, name, failed):
    original = getattr(owner, name)

    def call(self, *arguments, **options):
        result = original(self, *arguments, **options)
        if name not in failed:
            failed.add(name)
            raise ConnectionError("lost answer")
        return result

    return call


@pytest.mark.medium
def test_block_sends_while_it_runs_and_notes_how_it_ended(run_folder, is_complete, capfd):
    with uploading(run_folder):
        pass
    is_complete(run_folder)
    with pytest.raises(ZeroDivisionError), uploading(run_folder):
        raise ZeroDivisionError
    is_complete(run_folder, "FAILED")
    assert capfd.readouterr().err == ""


@pytest.mark.medium
def test_a_copy_goes_to_another_server_from_another_project(
    run_folder, is_complete, tmp_path, monkeypatch
):
    Uploader(run_folder).send()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run_folder, elsewhere / "copied")
    before = sorted(os.listdir(run_folder))
    shutil.rmtree(run_folder)
    (elsewhere / ".dvc").mkdir()
    monkeypatch.chdir(elsewhere)
    for _ in range(2):
        assert sync(elsewhere / "copied").exit_code == 0
        is_complete(elsewhere / "copied")
    assert sorted(os.listdir(elsewhere / "copied")) == before


@pytest.fixture
def evaluated(run_folder, monkeypatch):
    """A training that no server has, and an evaluation of it."""
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")
    report = Path("report.json")
    report.write_text("first")
    config = EvaluateConfig(metrics=("fid",))
    with tracked_stage("evaluate", config, training_run=run_folder) as stage:
        stage.metrics({"best_fid": 4.0})
        stage.training_metrics({"kid": 0.5}, 3, snapshot="network-snapshot-000003.pkl")
        stage.training_image(run_folder / "fakes000003.png", "render/grid", 3)
        stage.artifact(report)
    # As every writer of the project does it: the outbox keeps the first content.
    report.with_suffix(".new").write_text("second")
    os.replace(report.with_suffix(".new"), report)
    [outbox] = Path("state/tracking").iterdir()
    return outbox


def check_evaluated(run_folder: Path):
    store = connect()
    training_id = training_run_id(run_folder)
    wanted = "tags.`sg3flow.stage` = 'evaluate'"
    [run] = store.client.search_runs([store.experiment_id], wanted)
    assert run.data.tags["mlflow.parentRunId"] == training_id
    assert run.info.status == "FINISHED" and run.data.metrics == {"metrics/best_fid": 4.0}
    report = store.client.download_artifacts(run.info.run_id, "report.json")
    assert Path(report).read_text() == "first"
    [point] = store.client.get_metric_history(training_id, "metrics/kid")
    assert (point.step, point.value) == (3, 0.5)
    [model] = store.client.search_logged_models([store.experiment_id])
    assert ("metrics/kid", 0.5) in [(m.key, m.value) for m in model.metrics]
    images = [a.path for a in store.client.list_artifacts(training_id, "images")]
    assert len([p for p in images if "render~grid" in p and p.endswith(".png")]) == 1


@pytest.mark.medium
def test_a_stage_waits_for_its_training_run(run_folder, evaluated):
    with pytest.raises(TrainingMissingError, match="a-run is not on the server yet"):
        Uploader(evaluated).send()
    store = connect()
    [run] = store.client.search_runs([store.experiment_id])
    assert run.info.status == "FINISHED" and run.data.metrics == {"metrics/best_fid": 4.0}
    assert load_offset(evaluated, tracking_uri()).unsent() == (3, 1)  # parent, metric, image
    result = sync(evaluated)
    assert result.exit_code == 1 and "3 lines left: the training run" in result.stdout
    result = sync()  # trainings first
    assert result.exit_code == 0 and result.stdout.count("all sent") == 2, result.output
    check_evaluated(run_folder)
    shutil.rmtree("state/sent")
    assert sync().exit_code == 0
    check_evaluated(run_folder)
    assert sync().stdout.count("nothing to send") == 2


@pytest.mark.medium
def test_a_stage_on_a_folder_of_no_training_waits_for_none(
    run_folder, evaluated, tmp_path, monkeypatch
):
    described = json.loads((evaluated / "run.json").read_text())
    del described["training"]
    (evaluated / "run.json").write_text(json.dumps(described))
    lines = (evaluated / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] != "parent"]
    (evaluated / "events.jsonl").write_text("".join(kept))
    Uploader(evaluated).send()
    store = connect()
    [run] = store.client.search_runs([store.experiment_id])
    assert run.data.metrics["metrics/kid"] == 0.5
    [model] = store.client.search_logged_models([store.experiment_id])
    assert model.source_run_id == run.info.run_id
    result = sync(evaluated)
    assert result.exit_code == 0 and "nothing to send" in result.stdout


@pytest.mark.medium
def test_metrics_may_come_before_their_snapshot(run_folder, evaluated):
    Uploader(run_folder).send()
    [snapshot] = run_folder.glob("*.pkl")
    hidden = snapshot.rename(run_folder / "hidden")
    Outbox(run_folder).note("begin")
    store = connect()
    [model] = store.client.search_logged_models([store.experiment_id])
    store.client.delete_logged_model(model.model_id)
    Uploader(evaluated).send()
    hidden.rename(snapshot)
    shutil.rmtree("state/sent")
    Uploader(run_folder).send()
    check_evaluated(run_folder)
    [model] = store.client.search_logged_models([store.experiment_id])
    assert str(model.status) == "READY" and {m.key for m in model.metrics} == {
        "metrics/kid",
        "metrics/fid",
    }


def test_a_run_made_twice_becomes_one(run_folder, is_complete):
    """As after a request that succeeded after its timeout, and was repeated."""
    Uploader(run_folder).send()
    store = connect()
    tags = {"sg3flow.uid": json.loads((run_folder / "run.json").read_text())["uid"]}
    tags |= {"sg3flow.stage": "train", "sg3flow.grouped_metrics": "true"}
    for _ in range(3):
        store.client.create_run(store.experiment_id, tags=tags)
    Outbox(run_folder).end("FINISHED")
    Uploader(run_folder).send()
    shutil.rmtree("state/sent")
    Uploader(run_folder).send()
    is_complete(run_folder)


def test_a_snapshot_written_again_replaces_its_bytes(run_folder, is_complete):
    Uploader(run_folder).send()
    [snapshot] = run_folder.glob("*.pkl")
    snapshot.write_bytes(b"other bytes, and more of them")
    JsonlReporter(run_folder).snapshot(snapshot, 3000, sha256_file(snapshot))
    Uploader(run_folder).send()
    is_complete(run_folder)
    store = connect()
    [model] = store.client.search_logged_models([store.experiment_id])
    assert model.tags[Tag.SHA256] == sha256_file(snapshot)
    found = download_artifacts(f"models:/{model.model_id}")
    assert Path(found, snapshot.name).read_bytes() == snapshot.read_bytes()


def test_a_line_torn_by_a_full_disk_does_not_hide_the_end(run_folder, is_complete):
    with (run_folder / "events.jsonl").open("a") as stream:
        stream.write('{"kind": "metr')
    Outbox(run_folder).end("FAILED")
    Uploader(run_folder).send()
    is_complete(run_folder, "FAILED")


def test_a_damaged_line_is_named(run_folder, write_run_folder, own_project):
    write_run_folder(own_project / "state" / "other" / "run")
    with (run_folder / "events.jsonl").open("a") as stream:
        stream.write('{"kind": "metr{"kind": "end"}\n')
    result = sync()
    assert result.exit_code == 1 and "is damaged: delete that line to continue" in result.stdout
    assert "all sent" in result.stdout  # of the other run


@pytest.mark.parametrize("name", ["../params.yaml", "/params.yaml", "files/../../params.yaml"])
def test_no_file_outside_of_the_run_is_sent(run_folder, write_run_folder, own_project, name):
    write_run_folder(own_project / "state" / "other" / "run")
    Outbox(run_folder).note("artifact", file=name)
    result = sync()
    assert (
        result.exit_code == 1 and f"names '{name}', which is outside of the run's" in result.stdout
    )
    assert "all sent" in result.stdout  # of the other run


def test_a_new_database_gets_everything_again(run_folder, is_complete, empty_database):
    uploader = Uploader(run_folder)
    uploader.send()
    shutil.copy(empty_database, "mlflow.db")
    Outbox(run_folder).note("metric", key="late", value=1.0)
    with pytest.raises(TrackingError, match="has no run"):
        uploader.send()
    uploader.send()
    is_complete(run_folder)


def test_a_run_that_was_deleted_stays_deleted(run_folder):
    Uploader(run_folder).send()
    connect().client.delete_run(training_run_id(run_folder))
    assert "was deleted on the server" in sync().stdout
    assert training_run_id(run_folder) is None


def test_a_line_that_is_refused_stops_no_other(run_folder, is_complete):
    events = run_folder / "events.jsonl"
    rows = events.read_text().splitlines(keepends=True)
    bad = '{"kind": "metric", "file": "", "key": "no#such*name", "nimg": 0, "value": 1}\n'
    events.write_text("".join([*rows[:2], bad, *rows[2:]]))
    with pytest.raises(TrackingError, match="no#such"):
        Uploader(run_folder).send()
    is_complete(run_folder)
    assert load_offset(run_folder, tracking_uri()).unsent() == (1, 0)


def test_what_is_refused_waits_while_new_lines_go(run_folder, monkeypatch):
    from mlflow import MlflowClient

    tried = []
    log_metric = MlflowClient.log_metric

    def counted(self, run_id, key, *arguments, **options):
        tried.append(key)
        log_metric(self, run_id, key, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_metric", counted)
    Uploader(run_folder).send()
    outbox, uploader = Outbox(run_folder), Uploader(run_folder, live=True)
    outbox.note("metric", key="no#such*name", value=1.0)
    for value in range(3):
        outbox.note("metric", key="late", value=float(value))
        with pytest.raises(TrackingError, match="no#such"):
            uploader.send()
    assert (tried.count("metrics/no#such*name"), tried.count("metrics/late")) == (1, 3)
    uploader.live = False  # the end: once more
    with pytest.raises(TrackingError, match="no#such"):
        uploader.send()
    assert tried.count("metrics/no#such*name") == 2


def test_a_killed_run_is_marked_as_one(run_folder):
    Outbox(run_folder).begin()
    Uploader(run_folder, live=True).send()
    store = connect()
    assert store.client.get_run(training_run_id(run_folder)).info.status == "RUNNING"
    assert "all sent" in sync().stdout
    run = store.client.get_run(training_run_id(run_folder))
    assert run.info.status == "KILLED" and run.info.end_time >= run.info.start_time


@pytest.mark.medium
def test_the_upload_process_of_a_killed_stage_sends_everything_and_ends(run_folder):
    program = (
        "import os, pathlib, signal, sys, time\n"
        "from sg3flow.tracking.upload_process import uploading\n"
        "with uploading(pathlib.Path(sys.argv[1])):\n"
        "    time.sleep(0.5)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run_folder)], capture_output=True)
    assert done.returncode == -9
    # Its output ends with the last process that has it open: the upload process.
    assert done.stderr == b""
    run = connect().client.get_run(training_run_id(run_folder))
    assert run.info.status == "KILLED" and "loss/G" in run.data.metrics


def test_one_process_sends_at_a_time(run_folder):
    with single_uploader(run_folder, tracking_uri()) as alone:
        assert alone
        assert "another process is sending" in sync().stdout
    assert "all sent" in sync().stdout


@pytest.mark.medium
def test_sync_leaves_a_running_training_alone(run_folder):
    program = (
        "import sys; from pathlib import Path\n"
        "from sg3flow.training.work_folder import open_run_folder\n"
        "folder = open_run_folder(Path(sys.argv[1]), sys.argv[2], 10_000)\n"
        "print(flush=True); sys.stdin.read()"
    )
    base = run_folder.parent
    command = [sys.executable, "-c", program, str(base.parent), base.name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as training:
        training.stdout.readline()
        assert "is training" in sync().stdout
    assert "all sent" in sync().stdout


def test_one_run_that_cannot_be_read_stops_no_other(run_folder, write_run_folder, own_project):
    broken = write_run_folder(own_project / "state" / "0" / "run")
    (broken.parent / ".lock").mkdir()
    result = sync()
    assert result.exit_code == 1 and "1 of 2 runs are incomplete on the server" in result.stderr
    assert "14 lines left" in result.stdout and "all sent" in result.stdout


def test_tracking_can_be_off_and_sync_sends_later(run_folder, is_complete, monkeypatch, capfd):
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")
    with uploading(run_folder):
        pass
    assert capfd.readouterr().err == "" and not Path("state/sent").exists()
    monkeypatch.delenv("SG3FLOW_TRACKING")
    assert sync().exit_code == 0
    is_complete(run_folder)


def test_a_fault_of_ours_is_not_blamed_on_the_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"ValueError: .*'soon'.*; check the MLFLOW_") as caught:
        connect()
    assert "that the server is up" not in str(caught.value)


def test_reading_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'none.db'}")
    for read in (training_id, registered_version):
        with pytest.raises(TrackingError, match="no tracking database"):
            read("toy@champion")
    with pytest.raises(TrackingError, match="no tracking database"):
        find_record("a-run", tmp_path)
    assert not (tmp_path / "none.db").exists()


def test_an_upload_may_take_as_long_as_its_file_is_large(tmp_path, monkeypatch):
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(300 << 20)
    for usual in ("10", "77"):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", usual)
        with time_to_upload(large):
            assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == str(int(usual) + 300)
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == usual
