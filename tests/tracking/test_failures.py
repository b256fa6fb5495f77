"""What is said when MLflow cannot do what is asked, and the command that mends it."""

import errno
import http.server
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.config import PackConfig
from sg3flow.errors import TrackingError
from sg3flow.tracking.failures import check_address, explain
from sg3flow.tracking.mlflow_store import connect, local_artifact
from sg3flow.tracking.upload_process import tracked_now

_SERVER_ADVICE = "that the server is up"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("localhost:5000", "has no scheme: `export MLFLOW_TRACKING_URI=http://localhost:5000`"),
        ("127.0.0.1:5000", "has no scheme: `export MLFLOW_TRACKING_URI=http://127.0.0.1:5000`"),
        ("mlflow.example.org", "`export MLFLOW_TRACKING_URI=https://mlflow.example.org`"),
        ("me:secret@host:5000", "`export MLFLOW_TRACKING_URI=http://host:5000`"),
        ("./mlruns", "is a folder, and this MLflow does not store runs in files"),
        ("file:///var/mlruns", "`mlflow migrate-filestore --help`"),
        ("mlflow.db", "`export MLFLOW_TRACKING_URI=sqlite:///mlflow.db`"),
        ("sqlite:mlflow.db", "`export MLFLOW_TRACKING_URI=sqlite:///mlflow.db`"),
        ("sqlite://mlflow.db", "needs three slashes before a file"),
        ("sqlite:////no/such/folder/mlflow.db", "`mkdir -p /no/such/folder`"),
        ("sqlite:////usr", "names a folder, not a database file"),
        ("postgres://me:secret@host/mlflow", "must begin with postgresql://"),
        ("http://host:port", "has a port that is no number"),
        ("http://", "names no host"),
        ("http://host:5000/#/experiments/1", "`export MLFLOW_TRACKING_URI=http://host:5000`"),
        ("'http://host:5000'", "spaces or quotes"),
    ],
)
def test_an_address_that_cannot_work_is_corrected_before_anything_is_contacted(uri, words):
    with pytest.raises(TrackingError) as raised:
        check_address(uri)
    assert str(raised.value).startswith("MLFLOW_TRACKING_URI is '") and words in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://host", "https://me:pw@host:8443/mlflow/", "http://[::1]:5000", "databricks",
        "sqlite:///mlflow.db", "sqlite:////usr/mlflow.db", "sqlite://",
        "postgresql+psycopg2://me:pw@host/mlflow", "mssql+pyodbc://host/x", "plugin://x",
    ],
)  # fmt: skip
def test_addresses_that_can_work_are_taken(uri):
    check_address(uri)


def test_a_file_store_is_taken_where_mlflow_takes_it(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_address("./mlruns")


@pytest.mark.medium
def test_every_command_says_what_is_wrong_with_an_address(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    for command in (["history", "toy"], ["promote", "toy", "1"], ["serve", "toy@champion"]):
        result = CliRunner().invoke(app, command)
        [line] = result.stderr.splitlines()
        assert result.exit_code == 1 and line.startswith("error: MLFLOW_TRACKING_URI is 'localhost")


def _message(action) -> str:
    """The message of the TrackingError of an action: one line, without advice about a server."""
    with pytest.raises(TrackingError) as raised:
        action()
    [line] = str(raised.value).splitlines()
    assert _SERVER_ADVICE not in line and "Traceback" not in line and len(line) < 700
    return line


@pytest.fixture
def store(own_project):
    """The default store with the model toy, one version of which has an alias."""
    store = connect()
    store.client.create_registered_model("toy")
    store.client.create_model_version("toy", "file:///nowhere")
    store.client.set_registered_model_alias("toy", "champion", "1")
    return store


def _run_pack() -> None:
    with tracked_now("pack", PackConfig()):
        pass


@pytest.mark.medium
def test_a_deleted_experiment(store):
    run_id = store.client.create_run(store.experiment_id).info.run_id
    store.client.delete_experiment(store.experiment_id)
    line = _message(_run_pack)
    assert f"has deleted the experiment {store.experiment_id}: " in line
    _restore(line)
    _run_pack()
    assert store.client.get_run(run_id).info.lifecycle_stage == "active"


def _restore(line: str) -> None:
    """Run the command that a message gives."""
    command = line.split("`")[1]
    assert "mlflow experiments restore --experiment-id " in command
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    folder = "/"  # from any folder
    subprocess.run(command, shell=True, check=True, env=environment, cwd=folder)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/toy@nope", "a version is a number or one of champion, not '@nope'"),
        ("models:/toy@champoin", "(did you mean 'champion'?)"),
        ("models:/toy/7", "toy has no version 7; it has 1"),
        ("models:/tyo/1", "no registered model 'tyo' (did you mean 'toy'?)"),
        ("models:/toy", "has no logged model 'toy'; a registered one is written models:/NAME@"),
        ("models:/toy/Production", "has no version of toy in the stage Production; write"),
        ("models:/", "needs models:/NAME@ALIAS or models:/NAME/NUMBER"),
        (f"runs:/{'0' * 32}/model", f"has no run {'0' * 32}; `"),
        (f"runs:/{'0' * 32}", "needs runs:/RUN_ID/PATH"),
    ],
)
def test_a_name_that_the_registry_does_not_have(store, uri, words):
    line = _message(lambda: local_artifact(uri))
    assert line.startswith(f"cannot read {uri}: ") and words in line


def test_files_that_are_not_there(store):
    run_id = store.client.create_run(store.experiment_id).info.run_id
    line = _message(lambda: local_artifact(f"runs:/{run_id}/weights"))
    assert "has no file 'weights' there; `MLFLOW_TRACKING_URI=" in line
    model = store.client.create_logged_model(store.experiment_id, source_run_id=run_id)
    store.client.finalize_logged_model(model.model_id, "READY")
    line = _message(lambda: local_artifact(f"models:/{model.model_id}"))
    assert "knows it, but its files are missing" in line


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("ffffffffffff", "was made by a newer MLflow (its schema ffffffffffff is not known here)"),
        ("451aebb31d03", "was made by an older MLflow: make a backup of the database, then run `"),
    ],
)
def test_a_database_of_another_mlflow(own_project, revision, words):
    with closing(sqlite3.connect(own_project / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    line = _message(connect)
    assert words in line
    assert ("mlflow db upgrade" in line) == ("older" in words)


def test_a_file_that_is_no_database(own_project):
    (own_project / "mlflow.db").write_text("not a database " * 100)
    assert "is no SQLite database: move that file away" in _message(connect)


def test_an_experiment_id_that_is_not_there(own_project, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "99")
    line = _message(_run_pack)
    assert "has no experiment 99: correct or unset MLFLOW_EXPERIMENT_ID" in line


def test_a_locked_database(own_project, capfd):
    """The error is sqlite's own; MLflow would wait for a minute before it."""
    with closing(sqlite3.connect("mlflow.db", isolation_level=None, timeout=0)) as one:
        one.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect("mlflow.db", timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError) as raised:
                other.execute("SELECT 1 FROM runs")
    assert "is locked by another program" in explain(raised.value, "sqlite:///mlflow.db")


def test_a_full_disk_is_that_of_the_store():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "has no room: free space on its disk" in explain(full, "sqlite:///mlflow.db")
    assert "failed inside the server" in explain(full, "http://host")


def test_a_package_that_is_missing(own_project):
    with pytest.raises(ModuleNotFoundError) as raised:
        import no_such_package.below  # noqa: F401
    said = explain(raised.value, "sqlite:///mlflow.db")
    assert said == "needs a package that is not installed: `pip install no_such_package`"
    psycopg = ModuleNotFoundError("No module named 'psycopg'")
    assert "`pip install psycopg2-binary`" in explain(psycopg, "postgresql://host/x")


@contextmanager
def _web_server(status: int):
    """A web server that is not MLflow's."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"<html>hello</html>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("scheme", "status", "words"),
    [
        ("http", 404, "does not answer as an MLflow server"),
        ("http", 200, "does not answer as an MLflow server"),
        ("http", 413, "is behind a proxy that refuses files of this size"),
        ("http", 502, "is behind a proxy that does not reach it: check that"),
        ("https", 200, "does not use TLS at this port: write http://"),
    ],
)
def test_a_server_that_is_not_mlflow(monkeypatch, scheme, status, words):
    with _web_server(status) as host:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://{host}")
        with pytest.raises(TrackingError) as raised:
            connect()
    assert words in str(raised.value)


def test_a_registry_elsewhere_is_named(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError) as raised:
        local_artifact("models:/toy@champion")
    assert "MLflow at http://127.0.0.1:9 cannot be reached; check MLFLOW_REGISTRY_URI" in str(
        raised.value
    )


@pytest.mark.medium
def test_a_server_that_allows_other_hosts_only(make_server):
    make_server("", "--allowed-hosts", "mlflow.example.org").start()
    assert "start the server with --allowed-hosts" in _message(connect)


@pytest.mark.medium
def test_what_a_server_does_not_have(server):
    store = connect()
    run_id = store.client.create_run(store.experiment_id).info.run_id
    words = "has no file 'weights' there|but has no such file"
    assert re.search(words, _message(lambda: local_artifact(f"runs:/{run_id}/weights")))
    model = store.client.create_logged_model(store.experiment_id, source_run_id=run_id)
    store.client.finalize_logged_model(model.model_id, "READY")
    words = "but its files are missing|but has no such file"
    assert re.search(words, _message(lambda: local_artifact(f"models:/{model.model_id}")))
    store.client.create_registered_model("toy")
    assert "toy has no version 1" in _message(lambda: local_artifact("models:/toy/1"))


@pytest.mark.medium
def test_a_deleted_experiment_on_a_server(server):
    store = connect()
    store.client.delete_experiment(store.experiment_id)
    line = _message(_run_pack)
    assert f"`mlflow experiments restore --experiment-id {store.experiment_id}`" in line


@pytest.mark.medium
def test_a_server_that_does_not_answer_is_named_while_it_is_waited_for(tmp_path):
    """A port that takes connections and never answers, as a server behind a dead network does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
        command = [sys.executable, "-m", "sg3flow", "history", "toy"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    waited, error = done.stderr.splitlines()
    assert waited == f"waiting for MLflow at {uri}"
    assert error.startswith(f"error: MLflow at {uri} does not answer") and done.returncode == 1
