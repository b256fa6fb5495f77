"""Run folders like those of a training, and tracking servers that can be stopped or killed."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import JsonlReporter, Stat, describe_run
from sg3flow.tracking.mlflow_store import connect, find_run
from sg3flow.tracking.outbox import Outbox
from sg3flow.tracking.upload_process import recorded

TICKS = 4


@pytest.fixture(autouse=True)
def own_project(tmp_path, monkeypatch, empty_database) -> Path:
    """A new project for each test, in a path with a space, and no tracking settings."""
    folder = tmp_path / "a project"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(empty_database, folder)
    for name in [*os.environ]:
        if name.startswith(("MLFLOW_", "SG3FLOW_", "DVC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(folder)
    return folder


def write_run(folder: Path, ticks: int = TICKS, snapshot_bytes: int = 7) -> Path:
    """The folder of a finished training: statistics, images, files, a snapshot with its metric."""
    folder.mkdir(parents=True)
    content = {
        "fingerprint": "f" * 12,
        "name": "a-run",
        "command": "python stages/train.py",
        "params": {"gamma": 0.5, "kimg": ticks - 1},
        "training_set": {"name": "set", "digest": "ab" * 32, "num_images": 3, "resolution": 16},
    }
    describe_run(folder, content)
    with recorded(Outbox(folder)):
        reporter = JsonlReporter(folder)
        (folder / "networks.txt").write_text("layers")
        reporter.artifact(folder / "networks.txt")
        for tick in range(ticks):
            image = folder / f"fakes{tick:06d}.png"
            Image.new("RGB", (8, 8), (tick, 0, 0)).save(image)
            values = {"Loss/G/loss": Stat(8, tick / 10, 0.0), "Loss/D/loss": Stat(8, 1.0, 0.0)}
            reporter.stats(values, tick * 1000)
            reporter.image(image, "samples", tick * 1000)
        snapshot = folder / f"network-snapshot-{ticks - 1:06d}.pkl"
        snapshot.write_bytes(os.urandom(snapshot_bytes))
        reporter.snapshot(snapshot, (ticks - 1) * 1000, sha256_file(snapshot))
        reporter.metric(snapshot, "fid", 5.0, (ticks - 1) * 1000)
    return folder


@pytest.fixture
def run_folder(own_project) -> Path:
    """The folder of a training in the state folder."""
    return write_run(own_project / "state" / "0123456789ab" / "run")


@pytest.fixture
def write_run_folder():
    """The function `write_run`."""
    return write_run


def check_complete(folder: Path, status: str = "FINISHED", ticks: int = TICKS) -> None:
    """Check that the server has the whole folder of ``write_run``, once."""
    store = connect()
    uid = json.loads((folder / "run.json").read_text())["uid"]
    run = store.client.get_run(find_run(store, uid))
    trainings = [r for r in all_runs(store) if r.data.tags["sg3flow.stage"] == "train"]
    assert [r.info.run_id for r in trainings] == [run.info.run_id]
    assert run.info.status == status
    assert run.data.params == {"gamma": "0.5", "kimg": str(ticks - 1)}
    assert run.data.tags["sg3flow.fingerprint"] == "f" * 12
    assert "sg3flow.version.torch" in run.data.tags
    history = store.client.get_metric_history(run.info.run_id, "loss/G")
    assert sorted((m.step, m.value) for m in history) == [(t, t / 10) for t in range(ticks)]
    assert len(store.client.get_metric_history(run.info.run_id, "metrics/fid")) == 1
    images = [a.path for a in store.client.list_artifacts(run.info.run_id, "images")]
    steps = sorted(int(p.split("+")[2]) for p in images if p.endswith(".png"))
    assert steps == list(range(ticks)) and len(images) == 2 * ticks
    assert [a.path for a in store.client.list_artifacts(run.info.run_id)] == [
        "images",
        "networks.txt",
    ]
    [dataset] = run.inputs.dataset_inputs
    assert dataset.dataset.digest == "ab" * 8
    [model] = store.client.search_logged_models([store.experiment_id])
    assert model.name == f"network-snapshot-{ticks - 1:06d}" and str(model.status) == "READY"
    assert [(m.key, m.value) for m in model.metrics] == [("metrics/fid", 5.0)]
    [weights] = store.client.list_logged_model_artifacts(model.model_id)
    assert weights.file_size == (folder / f"{model.name}.pkl").stat().st_size


def all_runs(store) -> list:
    return list(store.client.search_runs([store.experiment_id]))


@pytest.fixture
def is_complete():
    """`check_complete`."""
    return check_complete


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real MLflow server on a port of this machine."""

    def __init__(self, folder: Path, database: str, *options: str, **environment: str) -> None:
        self._folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self.port), "-w", "1", "--backend-store-uri", database,
            "--artifacts-destination", str(folder / "artifacts"), *options,
        ]  # fmt: skip
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self._environment = kept | own | environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self._folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        said = (self._folder / "server.log").read_text()[-2000:]
        self.stop()
        raise AssertionError(f"the MLflow server did not start: {said}")

    def signal(self, number: int) -> None:
        """Send a signal to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Kill it, as a crash does."""
        if self._process is not None:
            try:
                self.signal(signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process = None

    def process_ids(self) -> list[int]:
        """Its processes."""
        import psutil

        assert self._process is not None
        main = psutil.Process(self._process.pid)
        return [main.pid, *(child.pid for child in main.children(recursive=True))]


@pytest.fixture(scope="module")
def sqlite_server(tmp_path_factory, empty_database):
    """A server on SQLite, for the tests of a module; each has an experiment of its own."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_database, folder)
    server = Server(folder, f"sqlite:///{folder / 'mlflow.db'}")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(sqlite_server, monkeypatch, request):
    """The module's server as the one in force."""
    use(sqlite_server, monkeypatch, request)
    return sqlite_server


def use(server: Server, monkeypatch, request) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)


@pytest.fixture
def make_server(tmp_path, monkeypatch, request, empty_database):
    """Makes servers of their own kind, in force at once and stopped with the test."""
    made = []

    def make(database: str = "", *options: str, **environment: str) -> Server:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        shutil.copy(empty_database, folder)
        database = database or f"sqlite:///{folder / 'mlflow.db'}"
        made.append(Server(folder, database, *options, **environment))
        use(made[-1], monkeypatch, request)
        return made[-1]

    yield make
    for server in made:
        server.stop()


class Postgres:
    """A PostgreSQL cluster of our own, on a free port, without root's rights."""

    def __init__(self, binaries: Path) -> None:
        self._postgres = binaries / "postgres"
        # Not below pytest's folder: that is root's, and this is not.
        self._folder = Path(tempfile.mkdtemp(prefix="sg3flow-postgres-"))
        self._user = {}
        if os.geteuid() == 0:
            name = next(n for n in ("postgres", "nobody") if _is_user(n))
            os.chown(self._folder, pwd.getpwnam(name).pw_uid, -1)
            self._user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
        port = free_port()
        self.uri = f"postgresql+psycopg2://sg3flow@127.0.0.1:{port}/postgres"
        self._run(binaries / "initdb", "-D", "data", "-U", "sg3flow", "-A", "trust", "-N").wait(120)
        self._options = ("-D", "data", "-p", str(port), "-c", "fsync=off")
        self._options += ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        import psycopg2

        self._process = self._run(self._postgres, *self._options)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg2.connect(self.uri.replace("+psycopg2", "")).close()
                return
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, *command: object) -> "subprocess.Popen[bytes]":
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*map(str, command)], cwd=self._folder, stdout=log, stderr=log, **self._user
            )


def _is_user(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL; tests that want one are skipped where there is none."""
    pytest.importorskip("psycopg2", reason="no PostgreSQL driver (the extra `postgres`)")
    places = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    found = [Path(place).parent for place in places if place]
    found = [folder for folder in found if (folder / "postgres").exists()]
    if not found:
        pytest.skip("no PostgreSQL on this machine (initdb and postgres)")
    cluster = Postgres(found[0])
    cluster.start()
    yield cluster
    cluster.remove()
