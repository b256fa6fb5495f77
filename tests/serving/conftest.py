"""Small generators with random weights: packaged, registered, and behind a real server."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import save_snapshot
from sg3flow.files import write_json
from sg3flow.networks import Discriminator, StyleGAN3Generator
from sg3flow.rendering.edits import Directions, write_directions

_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}


@pytest.fixture(scope="session")
def make_networks() -> Callable[..., tuple[StyleGAN3Generator, Discriminator]]:
    """Makes a seeded pair of networks of 16 x 16 pixels."""

    def make(c_dim: int = 0, seed: int = 0):
        torch.manual_seed(seed)
        G = StyleGAN3Generator(z_dim=16, c_dim=c_dim, w_dim=16, **_SIZES)
        D = Discriminator(c_dim=c_dim, **_SIZES)
        return G.eval().requires_grad_(False), D.eval().requires_grad_(False)

    return make


@pytest.fixture
def make_package(make_networks, tmp_path: Path):
    """Packages a generator of so many classes into a folder; gives the package and the network."""
    from sg3flow.checkpoints.loading import package_generator

    def make(c_dim: int = 0):
        G, _ = make_networks(c_dim)
        names = ["cat", "dog", "wild"][:c_dim]
        training_set = {"name": "toy", "licence": "CC0", "class_names": names}
        package = package_generator(
            G,
            tmp_path / f"package{c_dim}",
            training_set=training_set,
            metrics={"fd_random1k_full": {"value": 1.5}},
            snapshot_sha256="ab" * 32,
        )
        return package, G

    return make


# Told by every process of the server: what was unpickled, and which packages came in.
_WATCHER = """
import os, sys
_watched = ("dvc", "great_expectations", "typer", "sg3flow.serving.request_schema")
def _hook(event, args):
    if event == "pickle.find_class" or (event == "import" and args[0] in _watched):
        with open(os.environ["SG3FLOW_TEST_WATCH"], "a") as stream:
            stream.write(f"{event} {args}\\n")
sys.addaudithook(_hook)
"""

_REGISTER = """
import sys
from pathlib import Path
from sg3flow.config import RegisterConfig
from sg3flow.registry.registration import register_best
for folder in map(Path, sys.argv[1:]):
    config = RegisterConfig(name="toy", directions=str(folder / "directions.npz"))
    register_best(folder / "run", folder / "metrics.json", folder / "registered.json", config)
"""


class Server:
    """A server process, and what it was given to serve."""

    def __init__(self, port: int, watch: Path, log: Path, process):
        self.port, self.watch, self.log, self.process = port, watch, log, process

    def post(self, body, content_type: str | None = "application/json") -> tuple[int, str]:
        """Status and text of the answer."""
        return self.ask(body, content_type)[:2]

    def ask(self, body, content_type: str | None = "application/json"):
        """Status, text and headers of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if content_type is None else {"Content-Type": content_type}
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            link.request("POST", "/invocations", data, headers)
            answer = link.getresponse()
            return answer.status, answer.read().decode(), answer.headers
        finally:
            link.close()

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        try:
            address = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class Registry:
    """A registry in a folder of its own, with versions of toy generators."""

    def __init__(self, folder: Path, make_networks):
        self.folder, self._make_networks = folder, make_networks
        self.networks: list[StyleGAN3Generator] = []
        watcher = folder / "watcher"
        watcher.mkdir()
        (watcher / "sitecustomize.py").write_text(textwrap.dedent(_WATCHER))
        self.environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def register(self, count: int) -> None:
        """Register so many versions of three classes; each is better than those before."""
        folders = [self.folder / f"training{number}" for number in range(1, count + 1)]
        for number, folder in enumerate(folders, 1):
            networks = self._make_networks(3, number)
            self.networks.append(_write_run(networks, folder, number))
        self.call([sys.executable, "-c", _REGISTER, *map(str, folders)])

    def call(self, command: list[str]) -> str:
        """What a command prints that talks to this registry."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @contextmanager
    def serving(self, arguments: list[str], **variables: str) -> Iterator[Server]:
        """A server on a free port, which stands for PORT in the arguments, until the block ends."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        watch, log = self.folder / f"watch{port}.log", self.folder / f"serve{port}.log"
        environment = self.environment | variables | {"SG3FLOW_TEST_WATCH": str(watch)}
        path = [str(self.folder / "watcher"), *filter(None, [environment.get("PYTHONPATH")])]
        program, *rest = [argument.replace("PORT", str(port)) for argument in arguments]
        command = [str(Path(sys.executable).parent / program), *rest]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                env=environment | {"PYTHONPATH": os.pathsep.join(path)},
                cwd=self.folder,
                stdout=stream,
                stderr=stream,
            )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/ping", process, log)
            yield Server(port, watch, log, process)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def registry(make_networks, tmp_path_factory, empty_database) -> Registry:
    """A registry of two versions of a model with three classes; the better one is champion."""
    registry = Registry(tmp_path_factory.mktemp("registry"), make_networks)
    shutil.copy(empty_database, registry.folder)
    registry.register(2)
    return registry


def _write_run(networks, folder: Path, number: int) -> StyleGAN3Generator:
    G, D = networks
    training_set = {
        "name": "toy",
        "resolution": 16,
        "channels": 3,
        "label_dim": G.c_dim,
        "num_images": 9,
        "digest": "ab",
        "mirror": False,
    }
    digest = save_snapshot(
        folder / "run" / "network-snapshot-000010.pkl",
        G=G,
        D=D,
        G_ema=G,
        augment_p=0.0,
        training_set=training_set,
        progress={"nimg": 10_000},
    )
    row = {
        "snapshot": "network-snapshot-000010.pkl",
        "kimg": 10,
        "metric": "fd_random1k_full",
        "value": 10.0 - number,
        "higher_is_better": False,
        "reference_sha256": "r",
        "detector_sha256": "d",
        "network_sha256": digest,
    }
    report = {"format": "sg3flow-metrics-1", "best": {"metric": row["metric"]}, "results": [row]}
    write_json(folder / "metrics.json", report)
    vectors = np.zeros((2, G.num_ws, G.w_dim), np.float32)
    vectors[0, :, 0] = vectors[1, 1:, 1] = 1
    ones = np.ones(2)
    own = Directions(vectors, ("age", "smile"), ones, ones, "own", tuple(range(G.num_ws)), "")
    write_directions(folder / "directions.npz", own)
    return G


def _wait_until_up(url: str, process, log: Path) -> None:
    deadline = time.monotonic() + 600  # of a machine that is busy
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server does not answer: {log.read_text()[-3000:]}")
