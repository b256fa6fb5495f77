"""The registered model behind a real `mlflow models serve`."""

import base64
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sg3flow.checkpoints import save_snapshot
from sg3flow.files import write_json
from sg3flow.rendering.images import Look, png_bytes, render_image

# Told by every process of the server: what was unpickled, and which packages came in.
_WATCHER = """
import os, sys
_watched = ("dvc", "great_expectations", "typer", "sg3flow.serving.predictor")
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
from sg3flow.tracking.registry import register_best
folder = Path(sys.argv[1])
config = RegisterConfig(name="toy")
register_best(folder / "run", folder / "metrics.json", folder / "registered.json", config)
"""


class _Server:
    def __init__(self, url: str, network, watch: Path):
        self.url, self.network, self.watch = url, network, watch

    def post(self, body, content_type="application/json") -> tuple[int, str]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture(scope="module")
def server(make_networks, tmp_path_factory):
    """A labelled model, registered in a store of its own and served on a free port."""
    folder = tmp_path_factory.mktemp("served model")
    G = _write_run(make_networks, folder)
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-c", _REGISTER, str(folder)]
    subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True)
    watcher = folder / "watcher"
    watcher.mkdir()
    (watcher / "sitecustomize.py").write_text(textwrap.dedent(_WATCHER))
    environment |= {"PYTHONPATH": str(watcher), "SG3FLOW_TEST_WATCH": str(folder / "watch.log")}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toy@champion"]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    log = folder / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=stream, stderr=stream
        )
    try:
        _wait_until_up(f"http://127.0.0.1:{port}/ping", process, log)
        yield _Server(f"http://127.0.0.1:{port}/invocations", G, folder / "watch.log")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _write_run(make_networks, folder: Path):
    G, D = make_networks(c_dim=3)
    training_set = {
        "name": "toy",
        "resolution": 16,
        "channels": 3,
        "label_dim": 3,
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
        "value": 1.0,
        "higher_is_better": False,
        "network_sha256": digest,
    }
    report = {"format": "sg3flow-metrics-1", "best": {"metric": row["metric"]}, "results": [row]}
    write_json(folder / "metrics.json", report)
    return G


def _wait_until_up(url: str, process, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server does not answer: {log.read_text()[-3000:]}")


def _records(*rows, **params):
    return {"dataframe_records": list(rows)} | ({"params": params} if params else {})


_GOOD = {"seed": 1, "class": 0}


def test_a_post_returns_the_rendered_pictures(server):
    rows = [{"seed": 1, "class": 0}, {"seed": 4294967295, "class": 2}, {"seed": 1, "class": 0}]
    status, text = server.post(_records(*rows, psi=0.7, translate_x=0.1, rotate=15))
    assert status == 200, text
    look = Look(psi=0.7, translate=(0.1, 0.0), rotate=15)
    expected = [png_bytes(render_image(server.network, r["seed"], look, r["class"])) for r in rows]
    answers = json.loads(text)["predictions"]
    assert [answer["seed"] for answer in answers] == [row["seed"] for row in rows]
    assert [base64.b64decode(answer["png"], validate=True) for answer in answers] == expected


def test_params_hold_for_rows_that_leave_them_out(server):
    rows = [_GOOD | {"psi": 0.5}, {"seed": 2, "rotate": 20}, {"seed": 3, "psi": None}]
    whole = [
        {"seed": seed, "class": c, "psi": psi, "rotate": rotate}
        for seed, c, psi, rotate in [(1, 0, 0.5, 0), (2, 1, 0.7, 20), (3, 1, 0.7, 0)]
    ]
    ragged = server.post(_records(*rows, psi=0.7, **{"class": 1}))
    assert ragged[0] == 200, ragged[1]
    assert ragged == server.post(_records(*whole))


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [_GOOD]},
        {"inputs": {"seed": [1], "class": [0]}},
        {"dataframe_split": {"columns": ["class", "seed"], "data": [[0, 1]]}},
        _records({"seed": 1.0}, **{"class": 0}),
    ],
)
def test_other_forms_of_the_same_request_give_the_same_picture(server, body):
    assert server.post(body) == server.post(_records(_GOOD))


def test_clients_at_once_get_their_own_pictures(server):
    bodies = [_records({"seed": i, "class": i % 3, "rotate": 10 * i}) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(server.post, bodies))
    assert answers == [server.post(body) for body in bodies]
    assert {status for status, _ in answers} == {200}


_BAD = [
    (_records(), "missing inputs ['seed']"),
    (_records({"class": 0}), "missing inputs ['seed']"),
    (_records({"seed": 1}), "class is missing; give one from 0 to 2"),
    (_records({"seed": -1, "class": 0}), "not -1"),
    (_records({"seed": 1.5, "class": 0}), "not 1.5"),
    (_records({"seed": True, "class": 0}), "not True"),
    (_records({"seed": "7", "class": 0}), "not '7'"),
    (_records({"seed": None, "class": 0}), "not None"),
    (_records({"seed": 2**32, "class": 0}), "not 4294967296"),
    (_records({"seed": 10**30, "class": 0}), "seed must be a whole number"),
    (_records({"seed": [1], "class": 0}), "not [1]"),
    (_records({"seed": {"a": 1}, "class": 0}), "not {'a': 1}"),
    (_records({"seed": 1, "class": 3}), "class must be a whole number from 0 to 2, not 3"),
    (_records({"seed": 1, "class": "cat"}), "not 'cat'"),
    (_records({"seed": 1, "class": True}), "not True"),
    (_records(_GOOD | {"psi": 3}), "psi must be a number from -2 to 2, not 3"),
    (_records(_GOOD | {"pssi": 1}), "unknown names in the request: ['pssi']"),
    (_records(_GOOD, pssi=0.5), "unknown names in the request: ['pssi']"),
    (_records(_GOOD, psi="abc"), "for value `abc`"),
    (_records(_GOOD, psi=True), "for value `True`"),
    (_records(_GOOD, rotate=1e6), "rotate must be a number"),
    (b'{"dataframe_records": [{"seed": 1, "class": 0}], "params": {"psi": 1e999}}', "not inf"),
    (_records(_GOOD, {"seed": 2}), "row 1: class is missing"),
    (_records(_GOOD, {"class": 2}), "row 1: seed must be a whole number from 0 to"),
    (_records(*[_GOOD] * 65), "at most 64 pictures a request, not 65"),
    (_records(_GOOD) | {"params": [1]}, "must be a dictionary"),
    ({"dataframe_records": [1, 2]}, "missing inputs ['seed']"),
    ({"inputs": "a"}, "missing inputs ['seed']"),
    ({"rows": []}, "input fields"),
    (b"{", "valid JSON"),
    (b"", "valid JSON"),
    (b"null", "JSON dictionary"),
    (b"\xff", "valid JSON"),
]


@pytest.mark.parametrize(("body", "words"), _BAD)
def test_bad_requests_get_400_and_a_sentence(server, body, words):
    status, text = server.post(body)
    answer = json.loads(text)
    assert status == 400, text
    assert words in answer["message"]
    assert "stack_trace" not in answer and "Traceback" not in text


def test_the_server_unpickles_nothing_and_needs_no_pipeline_packages(server):
    assert server.post(_records(_GOOD))[0] == 200
    seen = server.watch.read_text().splitlines()
    assert any("sg3flow.serving.predictor" in line for line in seen)
    assert all("sg3flow.serving.predictor" in line for line in seen), seen
