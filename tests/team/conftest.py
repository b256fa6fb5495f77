"""The team's servers, started by the files of deploy/team: PostgreSQL, an S3 store, MLflow."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TEAM = ROOT / "deploy" / "team"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(check: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until ``check`` holds; a process that ends first is an error with what it said."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if check():
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {process.args}: {log.read_text()[-3000:]}")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs, or a skip."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "psql").exists():
            return folder
    pytest.skip("no PostgreSQL server on this machine")


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server of its own on a free port; logins by password, as on a real one."""

    port: int
    programs: Path
    admin_password: str

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs as the superuser."""
        login = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGPASSWORD": self.admin_password,
        }
        program, *options = command
        return subprocess.run(
            [str(self.programs / program), *options],
            env=os.environ | login | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = postgres_programs()
    # Not in pytest's folder: the server, which refuses to run as root, must be able to get there.
    folder = Path(tempfile.mkdtemp(prefix="sg3flow-pg-"))
    owner: dict[str, str] = {}
    if os.geteuid() == 0:
        try:
            shutil.chown(folder, "postgres", "postgres")
        except LookupError:
            pytest.skip("tests run as root, and there is no user postgres to run its server as")
        owner = {"user": "postgres", "group": "postgres"}
    (folder / "password").write_text("superuser-of-the-tests")
    server = Postgres(free_port(), programs, "superuser-of-the-tests")
    subprocess.run(
        [programs / "initdb", "--auth=scram-sha-256", "--username=postgres", "--no-sync",
         f"--pwfile={folder / 'password'}", folder / "data"],
        cwd=folder, check=True, capture_output=True, **owner,
    )  # fmt: skip
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-p", str(server.port), "-F",
             "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"],
            cwd=folder, stdout=stream, stderr=stream, start_new_session=True, **owner,
        )  # fmt: skip
    try:
        wait_for(lambda: server.run("psql", "-c", "select 1").returncode == 0, process, log)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # not SIGKILL: it would leave its shared memory behind
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory) -> Iterator[str]:
    """An S3 server in memory."""
    pytest.importorskip("moto", reason="moto, the S3 server of these tests, is not installed")
    port = free_port()
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)],
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(url), process, log)
        yield url
    finally:
        end(process)


@dataclass(frozen=True)
class Team:
    """A running team server and the settings it was started with."""

    url: str
    settings: dict[str, str]
    log: Path

    def login(self, name: str, password: str) -> dict[str, str]:
        """The variables by which a client logs in."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program with the settings of the server in its environment."""
        return subprocess.run(
            [sys.executable, *command],
            env=outside_environment() | self.settings | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )


def outside_environment() -> dict[str, str]:
    prefixes = ("MLFLOW_", "AWS_", "PG", "TEAM_", "SG3FLOW_STATE", "SG3FLOW_TRACKING", "DVC_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def plain_environment() -> dict[str, str]:
    """This process's environment without what would change a server or a client."""
    return outside_environment()


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory) -> Path:
    """A settings file as new_secrets.py makes it."""
    path = tmp_path_factory.mktemp("team") / ".env"
    subprocess.run([sys.executable, TEAM / "new_secrets.py", "--file", path], check=True)
    return path


def read_env(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture(scope="session")
def read_settings_file() -> Callable[[Path], dict[str, str]]:
    """Reads a settings file into a dictionary."""
    return read_env


@pytest.fixture(scope="session")
def server_program() -> ModuleType:
    """server.py as a module."""
    spec = importlib.util.spec_from_file_location("team_server", TEAM / "server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def team(postgres, s3_url, settings_file, tmp_path_factory) -> Iterator[Team]:
    """The whole team server: databases.sql, then server.py, as docs/team.md says."""
    for package in ("psycopg2", "boto3", "flask_wtf"):
        pytest.importorskip(package)
    port = free_port()
    settings = read_env(settings_file) | {
        "TEAM_PORT": str(port),
        "TEAM_DB_PORT": str(postgres.port),
        "TEAM_S3_URL": s3_url,
        "TEAM_WORKERS": "1",
    }
    password = {"TEAM_DB_PASSWORD": settings["TEAM_DB_PASSWORD"]}
    made = postgres.run("psql", "--file", str(TEAM / "databases.sql"), **password)
    assert made.returncode == 0, made.stderr
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, TEAM / "server.py"],
            env=outside_environment() | settings,
            cwd=log.parent,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        server = Team(f"http://127.0.0.1:{port}", settings, log)
        wait_for(lambda: answers(f"{server.url}/health"), process, log)
        yield server
    finally:
        end(process)
