"""The settings of a team server: how they are made, and what is said where one is missing."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEAM = ROOT / "deploy" / "team"


def make(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TEAM / "new_secrets.py", "--file", path, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_passwords_are_new_each_time_and_for_our_eyes_only(tmp_path, read_settings_file):
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        assert make(path, "--host", "mlflow.example.org").returncode == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    a, b = read_settings_file(first), read_settings_file(second)
    assert a["TEAM_HOST"] == "mlflow.example.org" and list(a) == list(b)
    secrets = [value for name, value in (a | {f"2{k}": v for k, v in b.items()}).items()
               if name.lstrip("2") not in ("TEAM_HOST", "TEAM_PORT")]  # fmt: skip
    assert len(secrets) == len(set(secrets)) == 12
    assert all(len(secret) >= 20 and secret.isalnum() for secret in secrets)


def test_an_existing_file_stays_as_it_is(tmp_path):
    path = tmp_path / ".env"
    path.write_text("TEAM_HOST=ours\n")
    done = make(path)
    assert done.returncode == 1
    assert done.stderr == f"error: {path} exists and stays as it is\n"
    assert path.read_text() == "TEAM_HOST=ours\n"


@pytest.mark.parametrize("host", ["", "a b", "http://x", "x:5000", "*", "-x"])
def test_a_host_that_is_none_makes_no_file(tmp_path, host):
    done = make(tmp_path / ".env", f"--host={host}")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: --host must be a name")
    assert not (tmp_path / ".env").exists()


def test_git_ignores_the_settings():
    done = subprocess.run(["git", "check-ignore", "-q", "deploy/team/.env"], cwd=ROOT)
    if done.returncode == 128:
        pytest.skip("not a git repository")
    assert done.returncode == 0


@pytest.mark.parametrize("value", ["", "short", None])
def test_each_secret_must_be_there(server_program, settings_file, read_settings_file, value):
    good = read_settings_file(settings_file)
    assert server_program.read_settings(good)["TEAM_DB_PORT"] == "5432"
    for name in server_program._SECRETS:
        bad = good | {name: value} if value is not None else {**good}
        if value is None:
            del bad[name]
        with pytest.raises(server_program.SettingsError, match=f"^{name} must be set, to 16"):
            server_program.read_settings(bad)
    with pytest.raises(server_program.SettingsError, match="TEAM_HOST"):
        server_program.read_settings(good | {"TEAM_HOST": "*"})


def test_secrets_reach_the_server_by_its_environment_alone(
    server_program, settings_file, read_settings_file
):
    settings = server_program.read_settings(read_settings_file(settings_file))
    secrets = [settings[name] for name in server_program._SECRETS]
    command = " ".join(server_program.server_command(settings))
    assert not any(secret in command for secret in secrets)
    assert "*" not in command.split("--allowed-hosts ")[1].split()[0].split(",")
    ours = {"AWS_SESSION_TOKEN": "t", "PGSSLMODE": "x", "TEAM_X": "y", "AWS_CA_BUNDLE": "/ca"}
    environment = server_program.server_environment(settings, ours)
    assert all(secret in environment.values() for secret in secrets)
    assert environment["AWS_CA_BUNDLE"] == "/ca"
    assert not {"AWS_SESSION_TOKEN", "PGSSLMODE", "TEAM_X"} & set(environment)
    assert Path(environment["MLFLOW_AUTH_CONFIG_PATH"]) == TEAM / "basic_auth.ini"


def start(**settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TEAM / "server.py"]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)


def test_a_server_that_cannot_start_says_why_in_a_line(settings_file, read_settings_file):
    done = start()
    assert done.returncode == 1 and done.stderr.startswith("error: TEAM_DB_PASSWORD must be set")
    assert len(done.stderr.splitlines()) == 1
    pytest.importorskip("boto3")
    settings = read_settings_file(settings_file)
    done = start(**settings, TEAM_S3_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: the S3 store at http://127.0.0.1:9 failed: ")
    assert settings["TEAM_S3_SECRET_KEY"] not in done.stderr


def test_the_databases_are_not_made_without_a_password(postgres):
    done = postgres.run("psql", "--file", str(TEAM / "databases.sql"), TEAM_DB_PASSWORD="")
    assert done.returncode == 3 and "TEAM_DB_PASSWORD is not set" in done.stderr
