"""The gateway and real workers: one that hangs, dies, fails, takes too long; what is left over."""

import asyncio
import base64
import dataclasses
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

import sg3flow
from sg3flow.checkpoints.loading import package_generator
from sg3flow.errors import CheckpointError, TrackingError
from sg3flow.registry.alias_server import registry_source
from sg3flow.rendering.images import png_bytes, render_image
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.serving import pyfunc_model
from sg3flow.serving.gateway import Gateway, Settings, Source
from sg3flow.serving.http_server import http_server

pytestmark = pytest.mark.medium

_SETTINGS = Settings(poll_sec=0.2, ping_sec=2.0, load_sec=600.0, wait_sec=600.0)
_BODY = {"dataframe_records": [{"seed": 1, "class": 0}]}


@pytest.fixture(autouse=True)
def environment(registry, tmp_path, monkeypatch):
    """Of the registry; every worker says a word on its standard error."""
    for name in ("MLFLOW_TRACKING_URI", "OMP_NUM_THREADS", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, registry.environment[name])
    talker = tmp_path / "talker"
    talker.mkdir()
    word = "import sys\nprint('a word of the worker', file=sys.stderr)\n"
    (talker / "sitecustomize.py").write_text(word)
    monkeypatch.setenv("PYTHONPATH", f"{talker}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.fixture
def versions(tmp_path) -> Path:
    """Where versions are copied to."""
    folder = tmp_path / "versions"
    folder.mkdir()
    return folder


@asynccontextmanager
async def _answering(source: Source, settings: Settings = _SETTINGS):
    """A gateway behind an address; gives a function that posts a request."""
    gateway = Gateway(source, settings)
    with socket.create_server(("127.0.0.1", 0)) as address:
        async with gateway.running(), aiohttp.ClientSession() as session:
            server = http_server(gateway.application(), settings.body_sec)
            serving = asyncio.create_task(server.serve(sockets=[address]))
            url = f"http://127.0.0.1:{address.getsockname()[1]}/invocations"

            async def post(body, kind="application/json"):
                data = body if isinstance(body, AsyncIterator) else json.dumps(body)
                headers = {"Content-Type": kind}
                async with session.post(url, data=data, headers=headers) as answer:
                    return answer.status, await answer.json(), answer.headers

            try:
                yield post
            finally:
                server.should_exit = True
                await serving


def _worker() -> psutil.Process:
    """The process of the one version that is there."""
    (found,) = (child for child in psutil.Process().children() if "--uds" in child.cmdline())
    return found


async def _until(condition) -> None:
    async with asyncio.timeout(600):
        while not condition():
            await asyncio.sleep(0.1)


def test_a_worker_that_hangs_is_replaced_and_no_files_are_left(registry, versions, caplog, capfd):
    import mlflow

    async def live() -> None:
        async with _answering(registry_source("toy@champion", versions)) as post:
            assert (await post(_BODY))[2]["X-Sg3flow-Version"] == "2"
            first = _worker()
            first.send_signal(signal.SIGSTOP)
            status, _, headers = await post(_BODY)
            assert (status, headers["X-Sg3flow-Version"]) == (200, "2")
            await _until(lambda: not first.is_running())
            assert len(list(versions.iterdir())) == 1
            client.set_registered_model_alias("toy", "champion", "1")
            await _until(lambda: [p.name[:10] for p in versions.iterdir()] == ["version-1-"])
            assert (await post(_BODY))[2]["X-Sg3flow-Version"] == "1"

    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    try:
        asyncio.run(live())
    finally:
        client.set_registered_model_alias("toy", "champion", "2")
    said = capfd.readouterr().err
    assert "a word of the worker" in said.splitlines() and "POST /invocations" not in said
    assert "version 2 does not respond; its process is killed" in caplog.text
    assert "its process ended; its last output: a word of the worker" in caplog.text


def test_a_fetch_that_breaks_off_leaves_nothing(registry, versions):
    import mlflow

    source = registry_source("toy@champion", versions)
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    model = client.get_model_version("toy", "2").source.removeprefix("models:/")
    files = Path(client.get_logged_model(model).artifact_location.removeprefix("file://"))
    lost = files / "lost"
    lost.symlink_to("nowhere")
    try:
        with pytest.raises(TrackingError):
            source.fetch("2")
    finally:
        lost.unlink()
    assert list(versions.iterdir()) == []


@pytest.fixture
def model(registry, versions) -> Path:
    """The files of version 2, fetched beforehand."""
    fetched = registry_source("toy@champion", versions).fetch("2")
    return fetched.rename(versions.with_name("model"))


def test_files_here_outlive_a_restart_that_fails_while_the_registry_is_away(
    versions, model, caplog
):
    is_away = False

    def wanted() -> str:
        if is_away:
            raise TrackingError("the registry is away")
        return "2"

    def fetch(version: str) -> Path:
        wanted()
        return shutil.copytree(model, Path(tempfile.mkdtemp(dir=versions)), dirs_exist_ok=True)

    async def live() -> None:
        nonlocal is_away
        async with _answering(Source("toy", wanted, fetch)) as post:
            is_away = True
            [files] = versions.iterdir()
            [weights] = files.rglob("*.safetensors")
            hidden = weights.rename(weights.with_suffix(".hidden"))
            _worker().kill()
            await _until(lambda: "version 2 cannot be served" in caplog.text)
            hidden.rename(weights)
            assert (await post(_BODY))[0] == 200
            assert list(versions.iterdir()) == [files]

    asyncio.run(live())


def test_a_request_that_takes_too_long_is_worded(versions, model, monkeypatch):
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("SG3FLOW_SERVE_MAX_PICTURES", "4096")
    body = {"dataframe_records": [{"seed": i, "class": 0} for i in range(4096)]}
    source = Source("toy", lambda: "2", lambda version: model)

    async def live() -> None:
        async with _answering(source, dataclasses.replace(_SETTINGS, max_rows=4096)) as post:
            status, answer, headers = await post(body)
            assert status == 504, answer
            assert "took too long" in answer["message"]
            assert answer["error_code"] == "DEADLINE_EXCEEDED"
            assert headers["X-Sg3flow-Version"] == "2"
            _worker().kill()  # it computes on

    asyncio.run(live())


def test_requests_that_stop_halfway_keep_no_one_out_and_long_ones_end_in_front(versions, model):
    many = {"dataframe_split": {"columns": ["seed"], "data": [[0]] * 65}}
    source = Source("toy", lambda: "2", lambda version: model)
    settings = dataclasses.replace(_SETTINGS, max_waiting=2, body_sec=1.0)

    async def stops():
        yield b'{"dataframe_records": '
        await asyncio.Event().wait()

    async def live() -> None:
        async with _answering(source, settings) as post:
            stopped = [asyncio.create_task(post(stops())) for _ in range(3)]
            await asyncio.sleep(0.2)
            assert (await post(_BODY))[0] == 200
            for status, answer, headers in await asyncio.gather(*stopped):
                assert status == 408, answer
                assert answer["message"].startswith("the body did not arrive within 1 s")
                assert "X-Sg3flow-Version" not in headers
            # Many rows, and a content type in any case.
            status, answer, headers = await post(many)
            assert status == 400 and "at most 64 images per request" in answer["message"]
            assert "X-Sg3flow-Version" not in headers  # no worker has seen it
            expected = (await post(_BODY))[:2]
            assert expected[0] == 200
            for kind in (
                "Application/JSON",
                "APPLICATION/JSON; CHARSET=UTF-8",
                'application/json;charset="utf-8"',
            ):
                assert (await post(_BODY, kind))[:2] == expected

    asyncio.run(live())


@pytest.mark.parametrize("is_first", [True, False])
def test_a_version_that_is_killed_while_it_loads_is_started_again(
    versions, model, caplog, monkeypatch, is_first
):
    """The worker's first attempt at version 3 kills itself, as the system would."""
    mark = versions.with_name("killed")
    code = (
        "import os, pathlib, signal\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if '-3-' in os.environ.get('__pyfunc_model_path__', '') and not mark.exists():\n"
        "    mark.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    talker = Path(os.environ["PYTHONPATH"].partition(os.pathsep)[0])
    (talker / "sitecustomize.py").write_text(code)
    wanted = "3" if is_first else "2"

    def fetch(version: str) -> Path:
        place = Path(tempfile.mkdtemp(prefix=f"version-{version}-", dir=versions))
        return shutil.copytree(model, place, dirs_exist_ok=True)

    async def live() -> None:
        nonlocal wanted
        async with _answering(Source("toy", lambda: wanted, fetch)) as post:
            wanted = "3"
            while (await post(_BODY))[2]["X-Sg3flow-Version"] != "3":
                await asyncio.sleep(0.2)

    asyncio.run(live())
    assert mark.exists()
    assert "version 3 cannot be served: its process was killed (SIGKILL)" in caplog.text


def test_a_version_that_is_always_killed_is_given_up_at_the_start(versions, model, monkeypatch):
    talker = Path(os.environ["PYTHONPATH"].partition(os.pathsep)[0])
    (talker / "sitecustomize.py").write_text(
        "import os, signal\nif '__pyfunc_model_path__' in os.environ:\n"
        "    print('one attempt', flush=True)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    )

    async def live() -> None:
        async with _answering(Source("toy", lambda: "2", lambda version: fetched(version))):
            raise AssertionError("nothing to serve")

    attempts = []

    def fetched(version: str) -> Path:
        attempts.append(version)
        place = Path(tempfile.mkdtemp(dir=versions))
        return shutil.copytree(model, place, dirs_exist_ok=True)

    with pytest.raises(CheckpointError, match=r"killed \(SIGTERM\) while loading.*one attempt"):
        asyncio.run(live())
    assert len(attempts) == 3 and list(versions.iterdir()) == []


def test_a_model_trained_with_vectors_starts_and_draws_labels(make_networks, tmp_path):
    import mlflow

    G, _ = make_networks(2)
    training_set = {"label_dim": 2, "label_kind": "vectors", "sample_labels": [[0.5, -1.0]]}
    package = package_generator(
        G, tmp_path / "package", training_set=training_set, metrics={}, snapshot_sha256="ab"
    )
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=pyfunc_model.__file__,
        artifacts={"weights": str(package.weights), "description": str(package.description)},
        code_paths=[str(Path(sg3flow.__file__).parent)],
        signature=pyfunc_model.signature(),
        input_example=pyfunc_model.example(training_set),
        pip_requirements=["mlflow"],
    )
    rows = [{"seed": 1, "label": [0.5, -1]}, {"seed": 1}]
    body = {"dataframe_records": rows, "params": {"label": [2, 0.25]}}
    split = {"columns": ["seed", "label"], "data": [[1, [0.5, -1]], [1, [2, 0.25]]]}
    expected = [
        png_bytes(render_image(G, 1, RenderOptions(), label))
        for label in ((0.5, -1.0), (2.0, 0.25))
    ]

    async def live() -> None:
        async with _answering(Source("toy", lambda: "1", lambda v: tmp_path / "model")) as post:
            for each in (body, {"dataframe_split": split}):
                status, answer, _ = await post(each)
                assert status == 200, answer
                images = [base64.b64decode(row["png"]) for row in answer["predictions"]]
                assert images == expected
            status, answer, _ = await post({"inputs": [{"seed": 1, "class": 0}]})
            assert status == 400
            assert "has no classes; give label, a list of 2 numbers" in answer["message"]

    asyncio.run(live())
