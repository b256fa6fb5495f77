"""A team at work: logins, a training, the registry, DVC, backups, on PostgreSQL and an S3 store."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
TEAM = ROOT / "deploy" / "team"
SETTINGS = (
    "--cfg=stylegan2", "--gpus=1", "--batch=100", "--gamma=0.1", "--cbase=128", "--cmax=4",
    "--map-depth=1", "--kimg=1", "--tick=1", "--snap=1", "--workers=0", "--grid=2x2",
    "--device=cpu",
)  # fmt: skip
WRONG_PASSWORD = "surely-not-the-password"


def status(url: str, name="", password="", body=None, **headers) -> int:
    """The HTTP status of a request, with a login if a name is given."""
    if name:
        login = base64.b64encode(f"{name}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def add_user(team, name: str, *options: str) -> dict[str, str]:
    """Add a user by add_user.py; returns the variables by which a client logs in."""
    done = team.run(str(TEAM / "add_user.py"), name, *options)
    assert done.returncode == 0, done.stderr
    [password] = re.findall(r"^mlflow_tracking_password = (\S+)$", done.stdout, re.MULTILINE)
    assert f"mlflow_tracking_username = {name}\n" in done.stdout
    return team.login(name, password)


@pytest.fixture(scope="module")
def ana(team):
    return add_user(team, "ana")


@pytest.fixture(scope="module")
def ben(team):
    return add_user(team, "ben")


@pytest.fixture(scope="module")
def bucket(team):
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=team.settings["TEAM_S3_URL"],
        region_name="us-east-1",
        aws_access_key_id=team.settings["TEAM_S3_ACCESS_KEY"],
        aws_secret_access_key=team.settings["TEAM_S3_SECRET_KEY"],
    )

    def keys(name: str) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    return keys


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project folder of a team member, with a packed set of 20 images."""
    folder = tmp_path_factory.mktemp("member") / "a project"
    (folder / ".dvc").mkdir(parents=True)
    random = np.random.RandomState(0)
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        for i in range(20):
            buffer = io.BytesIO()
            Image.fromarray(random.randint(0, 256, (16, 16, 3), np.uint8)).save(buffer, "png")
            archive.writestr(f"00000/img{i:08d}.png", buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": None}))
    return folder


@pytest.fixture(scope="module")
def run(project, plain_environment):
    """Runs a stage or a command of the package in the project, as one of the team."""

    def run(who: dict[str, str], program: str, *arguments: object):
        script = ROOT / "stages" / f"{program}.py"
        start = [script] if script.exists() else ["-c", "from sg3flow.cli import main; main()"]
        return subprocess.run(
            [sys.executable, *map(str, [*start, *arguments])],
            cwd=project,
            env=plain_environment | {"PYTHONPATH": str(ROOT / "src")} | who,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def refused_training(team, run, project):
    """A training whose tracking server refuses its password."""
    who = team.login("ana", WRONG_PASSWORD)
    return run(who, "train", "--data", "packed.zip", "--run-dir", "runs/train", *SETTINGS)


@pytest.fixture(scope="module")
def synced(refused_training, ana, run, project):
    """The same training, sent later with the right password."""
    return run(ana, "sg3flow", "sync", "state")


@pytest.fixture
def client(ana, monkeypatch):
    import mlflow

    for name, value in ana.items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(ana["MLFLOW_TRACKING_URI"])


def test_only_who_has_the_password_gets_in(team):
    search = f"{team.url}/api/2.0/mlflow/experiments/search?max_results=1"
    admin = team.settings["TEAM_ADMIN_PASSWORD"]
    assert status(f"{team.url}/health") == 200
    assert status(search) == 401
    assert status(search, "admin", admin) == 200
    assert status(search, "admin", WRONG_PASSWORD) == 401
    assert status(search, "admin", "password1234") == 401  # what MLflow's older versions came with
    assert status(search, "nobody", admin) == 401
    assert status(f"{team.url}/api/2.0/mlflow-artifacts/artifacts?path=") == 401
    assert status(f"{team.url}/") == 401


def test_other_names_and_other_sites_are_refused(team):
    search = f"{team.url}/api/2.0/mlflow/experiments/search"
    login = ("admin", team.settings["TEAM_ADMIN_PASSWORD"], {"max_results": 1})
    assert status(search, *login, Origin="http://localhost:1234") == 200
    assert status(search, *login, Origin="https://evil.example.org") == 403
    assert status(search, *login, Host="evil.example.org") == 403
    assert status(search, *login, Host="localhost:5000") == 200


def error_lines(done) -> list[str]:
    """All that a command said on stderr but for what it waited for, on a slow machine."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("waiting for ")]
    assert all(line.startswith("error: ") for line in lines), lines
    return lines


def test_users_are_added_and_their_passwords_changed(team):
    carl = add_user(team, "carl")
    search = f"{team.url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert status(search, "carl", carl["MLFLOW_TRACKING_PASSWORD"]) == 200
    again = team.run(str(TEAM / "add_user.py"), "carl")
    assert again.returncode == 1 and "already exists" in again.stderr
    new = add_user(team, "carl", "--reset")
    assert status(search, "carl", new["MLFLOW_TRACKING_PASSWORD"]) == 200
    assert status(search, "carl", carl["MLFLOW_TRACKING_PASSWORD"]) == 401
    wrong = team.run(str(TEAM / "add_user.py"), "dora", MLFLOW_TRACKING_PASSWORD=WRONG_PASSWORD)
    assert wrong.returncode == 1 and "the password of admin is another" in wrong.stderr
    away = team.run(str(TEAM / "add_user.py"), "dora", "--url", "http://127.0.0.1:9")
    assert away.returncode == 1 and "refused" in away.stderr
    for done in (again, wrong, away):
        assert len(error_lines(done)) == 1


def test_members_may_write_but_not_manage_users(team, ana):
    body = {"username": "eve", "password": "long-enough-for-eve"}
    login = ("ana", ana["MLFLOW_TRACKING_PASSWORD"])
    assert status(f"{team.url}/api/2.0/mlflow/users/create", *login, body) == 403


def test_a_wrong_password_costs_a_warning_and_no_training(refused_training, project):
    done = refused_training
    assert done.returncode == 0, done.stderr
    assert list((project / "runs/train").glob("network-snapshot-*.pkl"))
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings and all("127.0.0.1" in line for line in warnings[:1])
    assert "sg3flow sync" in warnings[-1]
    assert "401" in done.stderr or "MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr and WRONG_PASSWORD not in done.stderr


def test_a_wrong_password_is_one_line_of_a_command(refused_training, team, run):
    done = run(team.login("ana", WRONG_PASSWORD), "sg3flow", "sync", "state")
    assert done.returncode == 1
    [line] = error_lines(done)
    assert WRONG_PASSWORD not in line
    assert "401" in line or "MLFLOW_TRACKING_PASSWORD" in line


def test_a_training_arrives_in_the_database_and_in_the_bucket(
    synced, client, bucket, postgres, project
):
    assert synced.returncode == 0, synced.stderr
    experiment = client.get_experiment_by_name("sg3flow")
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    [run] = client.search_runs([experiment.experiment_id], "tags.`sg3flow.stage` = 'train'")
    assert run.info.status == "FINISHED" and run.data.params["gamma"] == "0.1"
    lines = (project / "runs/train/stats.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    history = client.get_metric_history(run.info.run_id, "loss/G")
    assert [m.value for m in history] == [
        r["Loss/G/loss"]["mean"] for r in rows if "Loss/G/loss" in r
    ]
    count = f"select count(*) from metrics where run_uuid = '{run.info.run_id}'"
    counted = postgres.run("psql", "-d", "mlflow", "-Atc", count)
    assert int(counted.stdout) >= len(history) > 0
    stored = [key for key in bucket("mlflow") if f"/{run.info.run_id}/" in key]
    assert any(key.endswith(".png") for key in stored)
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) >= 1 and all(str(model.status) == "READY" for model in models)
    snapshot = (project / "runs/train" / f"{models[0].name}.pkl").stat().st_size
    [weights] = client.list_logged_model_artifacts(models[0].model_id)
    assert weights.file_size == snapshot
    assert any(models[0].model_id in key and key.endswith(".pkl") for key in bucket("mlflow"))


@pytest.mark.slow  # five processes that load torch
def test_what_one_registers_another_loads(synced, ana, ben, run, client, project):
    evaluated = run(
        ana, "evaluate", "snapshots", "--run", "runs/train", "--data", "packed.zip",
        "--metrics", "fd_random20_full", "--batch", "10",
    )  # fmt: skip
    assert evaluated.returncode == 0 and "warning" not in evaluated.stderr, evaluated.stderr
    # ben has the same folder; he registers what ana trained, under her experiment.
    registered = run(ben, "register", "--run", "runs/train", "--params", params(project))
    assert registered.returncode == 0 and "warning" not in registered.stderr, registered.stderr
    assert client.get_model_version_by_alias("sg3flow-team", "champion").version == "1"
    images = (
        "images",
        "--network",
        "models:/sg3flow-team@champion",
        "--seeds",
        "1",
        "--trunc",
        "1",
    )
    rendered = run(ana, "render", *images, "--outdir", "registered")
    assert rendered.returncode == 0, rendered.stderr
    report = json.loads((project / "reports/registered.json").read_text())
    snapshot = project / "runs/train" / report["snapshot"]
    rendered = run(ana, "render", "images", "--network", snapshot, *images[3:], "--outdir", "own")
    assert rendered.returncode == 0, rendered.stderr
    [a], [b] = ((project / name).glob("*.png") for name in ("registered", "own"))
    assert a.read_bytes() == b.read_bytes()


def params(project: Path) -> Path:
    path = project / "params.yaml"
    path.write_text("register: {name: sg3flow-team}\n")
    return path


@pytest.fixture
def dvc(team, plain_environment, tmp_path):
    """Runs DVC in a folder of a fresh project, with the keys of the store."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    keys = {
        "AWS_ACCESS_KEY_ID": team.settings["TEAM_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": team.settings["TEAM_S3_SECRET_KEY"],
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONWARNINGS": "ignore",
    }

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder,
            env=plain_environment | keys,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr

    run.folder = folder  # type: ignore[attr-defined]
    return run


def test_dvc_keeps_its_files_in_the_same_store(team, dvc, bucket):
    folder = dvc.folder
    (folder / "weights.pkl").write_bytes(b"weights" * 1000)
    dvc("init", "--no-scm", "--quiet")
    dvc("remote", "add", "--default", "team", "s3://dvc/sg3flow")
    dvc("remote", "modify", "team", "endpointurl", team.settings["TEAM_S3_URL"])
    dvc("add", "--quiet", "weights.pkl")
    dvc("push", "--quiet")
    [key] = bucket("dvc")
    assert key.startswith("sg3flow/files/md5/")
    shutil.rmtree(folder / ".dvc" / "cache")
    (folder / "weights.pkl").unlink()
    dvc("pull", "--quiet")
    assert (folder / "weights.pkl").read_bytes() == b"weights" * 1000


def test_a_backup_of_the_databases_can_be_restored(synced, postgres, tmp_path):
    def sql(database: str, query: str) -> str:
        done = postgres.run("psql", "-d", database, "-Atc", query)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name, table in (("mlflow", "runs"), ("mlflow_auth", "users")):
        dump = str(tmp_path / f"{name}.dump")
        assert postgres.run("pg_dump", "-Fc", "-d", name, "-f", dump).returncode == 0
        sql("postgres", f"create database {name}_again owner mlflow")
        restored = postgres.run("pg_restore", "-d", f"{name}_again", "--exit-on-error", dump)
        assert restored.returncode == 0, restored.stderr
        rows = f"select md5(string_agg(t::text, ',' order by t::text)) from {table} t"
        assert sql(f"{name}_again", rows) == sql(name, rows) != "\n"


def test_no_secret_is_in_the_log_of_the_server(synced, team):
    said = team.log.read_text()
    assert "Uvicorn running" in said
    for name, value in team.settings.items():
        if "PASSWORD" in name or "KEY" in name:
            assert value not in said, name


def test_a_settings_file_run_again_changes_the_password_of_the_database(team, postgres):
    import psycopg2

    def connect(password: str) -> None:
        login = {"host": "127.0.0.1", "port": postgres.port, "user": "mlflow"}
        psycopg2.connect(dbname="mlflow", password=password, **login).close()

    databases = ("psql", "--file", str(TEAM / "databases.sql"))
    connect(team.settings["TEAM_DB_PASSWORD"])
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(WRONG_PASSWORD)
    assert postgres.run(*databases, TEAM_DB_PASSWORD='it\'s "new" %40').returncode == 0
    connect('it\'s "new" %40')
    old = team.settings["TEAM_DB_PASSWORD"]
    assert postgres.run(*databases, TEAM_DB_PASSWORD=old).returncode == 0
    connect(old)


def test_the_tables_are_brought_to_a_newer_mlflow(team):
    done = team.run(str(TEAM / "server.py"), "--upgrade-database")
    assert done.returncode == 0, done.stderr
    assert team.settings["TEAM_DB_PASSWORD"] not in done.stdout + done.stderr
