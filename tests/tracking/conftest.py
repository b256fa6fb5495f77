"""Run folders as a training leaves them, and tracking servers that can be hurt."""

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

from sg3flow.reporting import JsonlReporter, Stat, describe_run
from sg3flow.tracking.journal import Journal
from sg3flow.tracking.mirror import noted
from sg3flow.tracking.store import connect, find_run

TICKS = 4


@pytest.fixture(autouse=True)
def own_project(tmp_path, monkeypatch) -> Path:
    """A project of its own for every test, in a path with a space, and no tracking settings."""
    folder = tmp_path / "a project"
    (folder / ".dvc").mkdir(parents=True)
    for name in [*os.environ]:
        if name.startswith(("MLFLOW_", "SG3FLOW_", "DVC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(folder)
    return folder


def write_run(folder: Path, ticks: int = TICKS, snapshot_bytes: int = 7) -> Path:
    """What a finished training leaves: statistics, pictures, files, a snapshot with its metric."""
    folder.mkdir(parents=True)
    content = {
        "fingerprint": "f" * 12,
        "name": "a-run",
        "command": "python stages/train.py",
        "params": {"gamma": 0.5, "kimg": ticks - 1},
        "training_set": {"name": "set", "digest": "ab" * 32, "num_images": 3, "resolution": 16},
    }
    describe_run(folder, content)
    with noted(Journal(folder)):
        reporter = JsonlReporter(folder)
        (folder / "networks.txt").write_text("layers")
        reporter.artifact(folder / "networks.txt")
        for tick in range(ticks):
            picture = folder / f"fakes{tick:06d}.png"
            Image.new("RGB", (8, 8), (tick, 0, 0)).save(picture)
            values = {"Loss/G/loss": Stat(8, tick / 10, 0.0), "Loss/D/loss": Stat(8, 1.0, 0.0)}
            reporter.stats(values, tick * 1000)
            reporter.image(picture, "samples", tick * 1000)
        snapshot = folder / f"network-snapshot-{ticks - 1:06d}.pkl"
        snapshot.write_bytes(os.urandom(snapshot_bytes))
        reporter.snapshot(snapshot, (ticks - 1) * 1000)
        reporter.metric(snapshot, "fid", 5.0, (ticks - 1) * 1000)
    return folder


@pytest.fixture
def run_folder(own_project) -> Path:
    """A training's folder in its place."""
    return write_run(own_project / "state" / "0123456789ab" / "run")


@pytest.fixture
def write_run_folder():
    """`write_run`, for other folders."""
    return write_run


def check_complete(folder: Path, status: str = "FINISHED", ticks: int = TICKS) -> None:
    """All that a folder of ``write_run`` holds is on the server, once."""
    store = connect()
    uid = json.loads((folder / "run.json").read_text())["uid"]
    run = store.client.get_run(find_run(store, uid))
    trainings = [r for r in all_runs(store) if r.data.tags["sg3flow.stage"] == "train"]
    assert [r.info.run_id for r in trainings] == [run.info.run_id]
    assert run.info.status == status
    assert run.data.params == {"gamma": "0.5", "kimg": str(ticks - 1)}
    assert run.data.tags["sg3flow.fingerprint"] == "f" * 12
    assert "sg3flow.version.torch" in run.data.tags
    history = store.client.get_metric_history(run.info.run_id, "Loss/G/loss")
    assert sorted((m.step, m.value) for m in history) == [(t, t / 10) for t in range(ticks)]
    assert len(store.client.get_metric_history(run.info.run_id, "fid")) == 1
    pictures = [a.path for a in store.client.list_artifacts(run.info.run_id, "images")]
    steps = sorted(int(p.split("+")[2]) for p in pictures if p.endswith(".png"))
    assert steps == list(range(ticks)) and len(pictures) == 2 * ticks
    assert [a.path for a in store.client.list_artifacts(run.info.run_id)] == [
        "images",
        "networks.txt",
    ]
    [dataset] = run.inputs.dataset_inputs
    assert dataset.dataset.digest == "ab" * 8
    [model] = store.client.search_logged_models([store.experiment_id])
    assert model.name == f"network-snapshot-{ticks - 1:06d}" and str(model.status) == "READY"
    assert [(m.key, m.value) for m in model.metrics] == [("fid", 5.0)]
    [weights] = store.client.list_logged_model_artifacts(model.model_id)
    assert weights.file_size == (folder / f"{model.name}.pkl").stat().st_size


def all_runs(store) -> list:
    return list(store.client.search_runs([store.experiment_id]))


@pytest.fixture
def is_complete():
    """`check_complete`."""
    return check_complete


class Server:
    """A real MLflow server on a port of this machine."""

    def __init__(self, folder: Path, database: str, *options: str, **environment: str) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
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
def sqlite_server(tmp_path_factory):
    """A server on SQLite, for the tests of a module; each has an experiment of its own."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, f"sqlite:///{folder / 'server.db'}")
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
def make_server(tmp_path, monkeypatch, request):
    """Makes servers of their own kind, in force at once and stopped with the test."""
    made = []

    def make(database: str = "", *options: str, **environment: str) -> Server:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        database = database or f"sqlite:///{folder / 'server.db'}"
        made.append(Server(folder, database, *options, **environment))
        use(made[-1], monkeypatch, request)
        return made[-1]

    yield make
    for server in made:
        server.stop()
