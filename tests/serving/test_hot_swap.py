"""`sg3flow serve`: the served version follows its alias, and no request is lost by that."""

import base64
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.rendering.images import png_bytes, render_image
from sg3flow.rendering.seeds import RenderOptions

pytestmark = pytest.mark.medium

_SERVE = "sg3flow serve toy@champion --port PORT --poll 0.3 --load-timeout 600"
_BODY = {"dataframe_records": [{"seed": 1, "class": 0}, {"seed": 2, "class": 1}]}


@pytest.fixture
def move(registry, monkeypatch):
    """Runs a command that moves champion; gives what it prints."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.environment["MLFLOW_TRACKING_URI"])

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture(scope="module")
def server(registry):
    """A server of champion for all tests here; each leaves version 2 serving."""
    with registry.serving(_SERVE.split(), SG3FLOW_SERVE_MAX_BODY_MIB="1") as server:
        _wait_for(server, "2")
        yield server
        workers = _workers(server)
        assert len(workers) == 1
    assert not Path(f"/proc/{workers[0]}").exists()


def _expected(network) -> list[str]:
    pictures = [
        render_image(network, seed, RenderOptions(), index) for seed, index in ((1, 0), (2, 1))
    ]
    return [base64.b64encode(png_bytes(image)).decode() for image in pictures]


def _wait_for(server, version: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while json.loads(server.get("/model")[1])["version"] != version:
        assert time.monotonic() < deadline, server.log.read_text()[-3000:]
        time.sleep(0.1)


def _workers(server) -> list[int]:
    """Processes of the versions being served."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    tasks = children.parent.parent.glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def test_champion_moves_under_load_and_no_request_is_lost(registry, server, move):
    expected = {str(i + 1): _expected(network) for i, network in enumerate(registry.networks)}
    assert expected["1"] != expected["2"]
    answers: list[tuple[int, str | None, list[str]]] = []
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            status, text, headers = server.ask(_BODY)
            pictures = [row["png"] for row in json.loads(text).get("predictions", [])]
            answers.append((status, headers["X-Sg3flow-Version"], pictures))
            time.sleep(0.3)  # a new version comes up on the same two cores

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask_on) for _ in range(8)]
        try:
            out = move("rollback", "toy")
            assert "champion of toy is version 1 again, before version 2" in out
            _wait_for(server, "1")
            while len(answers) < 250:
                time.sleep(0.05)
            out = move("promote", "toy", "2")
            assert "champion of toy is version 2, before version 1" in out
            _wait_for(server, "2")
            seen = len(answers)
            while len(answers) < seen + 50:
                time.sleep(0.05)
        finally:
            stop.set()
        for each in asking:
            each.result()
        assert server.get("/ping")[0] == 200
    assert len(answers) >= 300
    assert {status for status, _, _ in answers} == {200}
    # Every answer is of one version as a whole, the one that its header names.
    assert all(pictures == expected[version] for _, version, pictures in answers)
    assert set(Counter(version for _, version, _ in answers)) == {"1", "2"}


def test_a_version_that_fails_leaves_the_old_one_serving(registry, server, move):
    broken, before = _weights_of(registry, "1"), len(server.log.read_text())
    content = broken.read_bytes()
    broken.write_bytes(content[:-1])

    def said() -> str:
        return server.log.read_text()[before:]

    try:
        move("rollback", "toy")
        _wait_until(lambda: "version 1 cannot be served" in said(), server)
        assert server.post(_BODY)[0] == 200
        model = json.loads(server.get("/model")[1])
        assert (model["version"], model["failed"]) == ("2", "1")
    finally:
        broken.write_bytes(content)
    warning = [line for line in said().splitlines() if "cannot be" in line]
    assert len(warning) == 1 and "version 2 continues to serve" in warning[0]
    move("promote", "toy", "2")


def test_a_worker_that_dies_is_replaced_and_its_requests_are_asked_again(server):
    _expect_refusals(server)
    _wait_until(lambda: len(_workers(server)) == 1, server)  # those of other versions have ended
    with ThreadPoolExecutor(4) as pool:
        (worker,) = _workers(server)
        asking = [pool.submit(server.post, _BODY) for _ in range(20)]
        time.sleep(0.05)
        os.kill(worker, signal.SIGKILL)
        assert {each.result()[0] for each in asking} == {200}
        (successor,) = _workers(server)
        assert successor != worker


def _expect_refusals(server) -> None:
    """The gateway refuses what the model would refuse."""
    for body, kind, status in (
        (b"{", "application/json", 400),
        ({"dataframe_records": [{"seed": -1, "class": 0}]}, "application/json", 400),
        (b"{}", "text/csv", 415),
        (b"{}", None, 415),
        (b" " * (1 << 20) + b"{}", "application/json", 413),
    ):
        found, text = server.post(body, kind)
        assert found == status, text
        assert set(json.loads(text)) == {"error_code", "message"}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("toy", "give NAME@ALIAS, for example"),
        ("toy@champoin", "not '@champoin' (did you mean 'champion'?)"),
        ("tyo@champion", "no registered model 'tyo' (did you mean 'toy'?)"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line(registry, monkeypatch, target, words):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.environment["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the tests keep their own
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    result = CliRunner().invoke(app, ["serve", target, "--port", str(port)])
    assert result.exit_code == 1 and words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_taken_address_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "toy@champion", "--port", port])
    assert result.exit_code == 1 and "cannot listen at 127.0.0.1" in result.stderr


def _weights_of(registry, version: str) -> Path:
    import mlflow

    client = mlflow.MlflowClient(registry.environment["MLFLOW_TRACKING_URI"])
    source = client.get_model_version("toy", version).source
    model = client.get_logged_model(source.removeprefix("models:/"))
    folder = Path(model.artifact_location.removeprefix("file://"))
    return folder / "artifacts" / "generator.safetensors"


def _wait_until(condition, server, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, server.log.read_text()[-3000:]
        time.sleep(0.1)
