"""The gateway and real workers: one that hangs, dies, fails, takes too long; what is left over."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
import uvicorn

from sg3flow.errors import TrackingError
from sg3flow.registry.alias_server import registry_source
from sg3flow.serving.gateway import Gateway, Settings, Source

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
async def _answering(source: Source):
    """A gateway behind an address; gives a function that posts a request."""
    gateway = Gateway(source, _SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as address:
        async with gateway.running(), aiohttp.ClientSession() as session:
            config = uvicorn.Config(gateway.application(), log_config=None, lifespan="off")
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[address]))
            url = f"http://127.0.0.1:{address.getsockname()[1]}/invocations"

            async def post(body):
                async with session.post(url, json=body) as answer:
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
        async with _answering(source) as post:
            status, answer, headers = await post(body)
            assert status == 504, answer
            assert "took too long" in answer["message"]
            assert answer["error_code"] == "DEADLINE_EXCEEDED"
            assert headers["X-Sg3flow-Version"] == "2"
            _worker().kill()  # it computes on

    asyncio.run(live())
