"""The default store of a project whose folder was moved, renamed or copied."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as mlflow_cache

from sg3flow.cli.status import examine_store, print_summary
from sg3flow.config import PackConfig
from sg3flow.errors import TrackingError
from sg3flow.tracking.mlflow_store import connect, local_artifact, training_run_id
from sg3flow.tracking.relocation import find_relocations
from sg3flow.tracking.upload_process import tracked_now
from sg3flow.tracking.uploader import Uploader

pytestmark = pytest.mark.medium

_COUNTS = "1 run, 1 logged model, 1 registered version"


@pytest.fixture
def project(own_project, run_folder, request) -> Path:
    """A project with a sent training, whose snapshot is a registered version.

    Its parameter is the folder that the experiment has for its artifacts, in the project.
    """
    if hasattr(request, "param"):
        client = MlflowClient(f"sqlite:///{own_project}/mlflow.db")
        client.create_experiment("sg3flow", str(own_project / request.param))
    Uploader(run_folder).send()
    store = connect()
    [model] = store.client.search_logged_models([store.experiment_id])
    store.client.create_registered_model("toy")
    source = f"models:/{model.model_id}"
    store.client.create_model_version("toy", source, model_id=model.model_id)
    store.client.set_registered_model_alias("toy", "champion", "1")
    return own_project


@pytest.fixture
def enter(monkeypatch):
    """Work in another folder, as a new process there would."""

    def enter(folder: Path) -> Path:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        mlflow_cache._artifact_repos_cache.clear()
        return folder

    return enter


def _texts(database: Path) -> set[str]:
    """Every text in a database."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        rows = [row for (name,) in tables for row in connection.execute(f"SELECT * FROM {name}")]
    return {value for row in rows for value in row if isinstance(value, str)}


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _send_something() -> None:
    Path("report.json").write_text("{}")
    with tracked_now("pack", PackConfig()) as run_id:
        connect().client.log_artifact(run_id, "report.json")


@pytest.mark.parametrize("project", ["mlruns", "mlruns/1"], indirect=True)  # 0.2 had the second
def test_the_artifacts_of_a_moved_project_are_found(project, enter, capsys):
    """Every address in the database follows, whatever has it."""
    moved = enter(project.rename(project.with_name("50% of #2")))
    snapshot = local_artifact("models:/toy@champion") / "network-snapshot-000003.pkl"
    assert snapshot.is_relative_to(moved / "mlruns") and len(snapshot.read_bytes()) == 7
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: this project was moved from {project}: ")
    assert f"of {_COUNTS} in mlflow.db now name {moved}" in line
    assert not [text for text in _texts(moved / "mlflow.db") if str(project) in text]
    assert not [text for text in _texts(moved / "mlflow.db") if project.as_uri() in text]
    _send_something()
    assert not project.exists()
    assert capsys.readouterr().err == ""


def test_a_copy_does_not_write_into_the_original(project, enter, capsys):
    before = _tree(project)
    copy = enter(Path(shutil.copytree(project, project.with_name("copy"))))
    Uploader(copy / "state/0123456789ab/run").send()  # again, as its offset is of the original
    _send_something()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: this project is a copy of {project}: ")
    assert _tree(project) == before
    assert len([*copy.glob("mlruns/**/report.json")]) == 1
    training = training_run_id(copy / "state/0123456789ab/run")
    images = connect().client.list_artifacts(training, "images")
    assert len(images) == 8


def test_a_database_copied_without_its_files_is_refused(project, enter):
    """Setting its addresses would make models unreadable that still load; keeping them would
    write into the original."""
    before = _tree(project)
    copy = project.with_name("copy")
    (copy / ".dvc").mkdir(parents=True)
    shutil.copy(project / "mlflow.db", copy)
    enter(copy)
    with pytest.raises(TrackingError, match="without its artifacts") as raised:
        _send_something()
    assert f"copy that folder to {copy / 'mlruns'}" in str(raised.value)
    assert "`sg3flow doctor --repair`" in str(raised.value)
    assert [*examine_store()][1].strip() == str(raised.value)
    said = [*examine_store(repair=True)]
    assert f"files of 3 are only there: `cp -rn '{project}/mlruns/.' {copy}/mlruns`" in said[1]
    _send_something()
    assert _tree(project) == before and [*copy.glob("mlruns/**/report.json")]
    shutil.copytree(project / "mlruns", copy / "mlruns", dirs_exist_ok=True)
    assert local_artifact("models:/toy@champion").is_relative_to(copy)


def test_files_that_an_earlier_version_wrote_to_the_old_folder_are_named(project, enter, capsys):
    [run] = [
        path.parent for path in project.glob("mlruns/**/artifacts") if "models" not in str(path)
    ]
    moved = project.rename(project.with_name("moved"))
    project.mkdir()
    shutil.move(moved / run.relative_to(project), project / "mlruns" / run.name)
    enter(moved)
    connect()
    assert f"files of 1 are only there: `cp -rn '{project}/mlruns/.'" in capsys.readouterr().err


def test_a_place_that_a_user_chose_for_an_experiment_stays(own_project, tmp_path, monkeypatch):
    """Also if it is not there now, as on a disk that is not mounted."""
    store = connect()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "large")
    place = tmp_path / "disk" / "mlruns"
    store.client.create_experiment("large", str(place))
    for _ in range(2):
        _send_something()
        [written] = place.glob("**/report.json")
        assert find_relocations(own_project / "mlflow.db", own_project) == []
        written.unlink()
    shutil.rmtree(tmp_path / "disk")
    assert find_relocations(own_project / "mlflow.db", own_project) == []


def test_a_project_moved_to_its_parent_or_into_itself(project, enter):
    inner = project / "in" / "side"
    inner.mkdir(parents=True)
    for name in (".dvc", "mlflow.db", "mlruns"):
        (project / name).rename(inner / name)
    enter(inner)
    assert local_artifact("models:/toy@champion").is_relative_to(inner)
    for name in (".dvc", "mlflow.db", "mlruns"):
        (inner / name).rename(project / name)
    enter(project)
    found = local_artifact("models:/toy@champion")
    assert found.is_relative_to(project / "mlruns") and len([*found.iterdir()]) == 1


def test_artifacts_are_beside_the_database_from_any_folder(own_project, monkeypatch):
    """MLflow itself would put them into the current folder, for the whole life of the database."""
    (own_project / "notes").mkdir()
    monkeypatch.chdir(own_project / "notes")
    _send_something()
    (own_project / "notes" / "report.json").unlink()
    [written] = own_project.rglob("report.json")
    assert written.is_relative_to(own_project / "mlruns")


def test_a_database_that_cannot_be_written_is_one_sentence(project, enter, monkeypatch):
    moved = enter(project.rename(project.with_name("moved")))
    monkeypatch.setattr("sg3flow.tracking.relocation._WAIT_SEC", 0)
    with closing(sqlite3.connect(moved / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrackingError, match="cannot be corrected: database is locked"):
            connect()
    connect()
    assert local_artifact("models:/toy@champion").is_relative_to(moved)


def test_doctor_and_summary_say_it_and_doctor_repairs_it(project, enter, capsys):
    moved = enter(project.rename(project.with_name("moved")))
    before = (moved / "mlflow.db").read_bytes()
    place, line = examine_store()
    assert place == f"tracking: sqlite:///{moved}/mlflow.db"
    assert f"has artifact addresses in {project}: `sg3flow doctor --repair`" in line
    (moved / "params.yaml").write_text("register:\n  name: toy\n")
    print_summary()
    assert f"note: {line.strip()}" in capsys.readouterr().out.splitlines()
    assert (moved / "mlflow.db").read_bytes() == before
    _, said, result = examine_store(repair=True)
    assert _COUNTS in said and result == f"  {moved}/mlflow.db: its artifacts are in {moved}/mlruns"
    assert len([*examine_store()]) == 1
    assert len([*examine_store(repair=True)]) == 2
