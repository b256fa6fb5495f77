"""compose.yaml, the Dockerfile and the systemd unit, as far as one can check without running."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
TEAM = ROOT / "deploy" / "team"
COMPOSE = TEAM / "compose.yaml"
SECRET = re.compile("PASSWORD|SECRET|KEY")
VARIABLE = re.compile(r"\$\{(\w+)(:[?-])?([^}]*)\}")
SERVICE_KEYS = {
    "image",
    "build",
    "restart",
    "command",
    "depends_on",
    "environment",
    "ports",
    "volumes",
    "cap_drop",
    "security_opt",
    "healthcheck",
}
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}


@pytest.fixture(scope="module")
def compose():
    return YAML(typ="safe").load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {name.lower(): version for name, version in pins}


def test_it_has_the_form_of_a_compose_file(compose, services):
    assert set(compose) == {"name", "services", "volumes"}
    assert list(services) == ["db", "s3", "mlflow"]
    for service in services.values():
        assert set(service) <= SERVICE_KEYS
        assert service["restart"] == "unless-stopped"
        assert set(service["healthcheck"]) == HEALTH_KEYS
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(isinstance(v, str) for v in service["environment"].values())


def test_every_image_is_pinned(services):
    for service in services.values():
        tag = service["image"].partition("@")[0].rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+[\w.-]*", tag), service["image"]
    assert re.search(r"@sha256:[0-9a-f]{64}$", services["s3"]["image"])
    assert services["mlflow"]["image"].endswith(":" + constraints()["mlflow"])
    [base] = re.findall(r"^FROM (\S+)$", (TEAM / "Dockerfile").read_text(), re.MULTILINE)
    assert base == "python:3.11.13-slim-bookworm"


def test_every_secret_comes_from_the_settings_and_must_be_there(services, settings_file):
    given = {line.partition("=")[0] for line in settings_file.read_text().splitlines()}
    used = set()
    for service in services.values():
        for name, value in service["environment"].items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{TEAM_\w+:\?run make team-env\}", value), name
    for name, how, default in VARIABLE.findall(COMPOSE.read_text()):
        used.add(name)
        if SECRET.search(name):
            assert how == ":?" and name in given
        elif how != ":?":
            assert how == ":-" and default
    assert given <= used


def test_the_server_gets_every_secret_it_asks_for(services, server_program):
    environment = services["mlflow"]["environment"]
    assert set(server_program._SECRETS) <= set(environment)
    known = {*server_program._SECRETS, *server_program._DEFAULTS, "TEAM_HOST"}
    assert set(environment) <= known


def test_no_port_is_open_to_the_network_unless_one_says_so(services):
    assert "ports" not in services["db"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("${TEAM_BIND:-127.0.0.1}:") for port in published)


def test_data_is_in_named_volumes_and_files_exist(compose, services):
    named = set()
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (TEAM / source).is_file() and volume.endswith(":ro")
            else:
                named.add(source)
    assert named == set(compose["volumes"]) == {"db", "objects", "accounts"}
    build = services["mlflow"]["build"]
    assert (TEAM / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_the_image_is_made_of_files_that_its_context_holds():
    copied = []
    for line in (TEAM / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            copied += line.split()[1:-1]
    ignored = (TEAM / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    assert sorted(f"!{name}" for name in copied) == sorted(ignored[1:])
    assert all((ROOT / name).is_file() for name in copied)


def test_what_the_server_installs_is_pinned():
    lines = (TEAM / "requirements.txt").read_text().splitlines()
    names = [line.partition("[")[0] for line in lines if not line.startswith("#")]
    assert names == ["mlflow", "psycopg2-binary", "boto3"]
    assert {*names, "flask-wtf", "wtforms", "botocore"} <= set(constraints())


def test_the_unit_starts_the_same_program():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(TEAM / "sg3flow-mlflow.service")
    service = unit["Service"]
    assert shlex.split(service["ExecStart"])[1] == "/srv/mlflow/server.py"
    assert service["EnvironmentFile"] == "/etc/sg3flow/team.env"
    assert service["User"] == "mlflow" and "Environment" not in service
    assert not SECRET.search(service["ExecStart"])


def test_systemd_accepts_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd on this machine")
    text = (TEAM / "sg3flow-mlflow.service").read_text()
    unit = tmp_path / "sg3flow-mlflow.service"
    unit.write_text(text.replace("/srv/mlflow/.venv/bin/python", "/bin/sh"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
    about = [line for line in done.stderr.splitlines() if unit.name in line]
    assert about == [] or all("User" in line for line in about), done.stderr


def test_compose_itself_accepts_the_file(settings_file, tmp_path):
    docker = shutil.which("docker")
    command = [docker, "compose", "-f", str(COMPOSE)]
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("no docker compose on this machine")
    made = subprocess.run([*command, "--env-file", settings_file, "config", "--quiet"])
    assert made.returncode == 0
    (tmp_path / "none").write_text("")
    refused = subprocess.run(
        [*command, "--env-file", str(tmp_path / "none"), "config"], capture_output=True, text=True
    )
    assert refused.returncode != 0 and "run make team-env" in refused.stderr
