"""A worker process that serves one version: MLflow's scoring server on a Unix socket.

The process runs the code packaged with the version: its ``model_app.py``. Versions registered by
sg3flow 0.1 have no such file; for them it runs the application of ``mlflow models serve``, into
which their code inserts its checks. Only the owner can access the socket. The output of the process
goes to our log; its last lines are kept to explain why it ended.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from sg3flow.errors import CheckpointError

_DESCRIPTION = "artifacts/generator.json"
_MODEL_APP = "sg3flow/serving/model_app.py"
_MLFLOW_APP = "mlflow.pyfunc.scoring_server.app:app"
_MODEL_VARIABLE = "__pyfunc_model_path__"  # where both applications look for the model
_PR_SET_PDEATHSIG = 1
_LOG_LINES = 5
_LOG_BYTES = 4096
_PINGS = 3
_DEATH_SEC = 2.0


class WorkerKilledError(CheckpointError):
    """A process was killed from outside while it loaded; another attempt may succeed."""


class Worker:
    """One version, loaded and ready.

    Attributes:
        version: number of the version.
        model: folder with the files of the version.
        in_flight: number of requests in progress.
        socket: path of its socket.
    """

    def __init__(
        self, version: str, model: Path, process: asyncio.subprocess.Process, folder: Path
    ) -> None:
        self.version, self.model, self.in_flight = version, model, 0
        self._process, self._folder = process, folder
        self._output = b""
        self._listening = asyncio.create_task(self._listen())
        self.socket = folder / "socket"
        # One connection per request: a kept connection may be closed at the moment of its reuse.
        connector = aiohttp.UnixConnector(str(self.socket), limit=0, force_close=True)
        # No timeout here: the server behind the socket has its own.
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        )

    @classmethod
    async def start(cls, version: str, model: Path, load_sec: float) -> "Worker":
        """Start the process and wait until it has answered a first request.

        Args:
            model: folder of the version in the format of MLflow.
            load_sec: maximum time for loading and the first request.

        Raises:
            CheckpointError: it ended, or generated no image in time; the message has its last
                output.
            WorkerKilledError: another process, or the system, killed it.
        """
        folder = Path(tempfile.mkdtemp(prefix="sg3flow-serve-"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", *_application(model)),
            *("--uds", str(folder / "socket"), "--no-access-log", "--log-level", "warning"),
            env=os.environ | {_MODEL_VARIABLE: str(model), "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C goes to the gateway, which lets workers finish
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        worker = cls(version, model, process, folder)
        try:
            async with asyncio.timeout(load_sec):
                await worker._wait_until_up()
                await worker._warm_up()
        except BaseException as error:
            killer = worker._killed_by()
            await worker.stop()
            if killer and isinstance(error, CheckpointError):
                raise WorkerKilledError(
                    f"its process was killed ({killer}) while loading, as happens when memory runs "
                    f"out; {worker.last_output()}"
                ) from None
            if isinstance(error, TimeoutError):
                raise CheckpointError(
                    f"it was not ready within {load_sec:g} s; {worker.last_output()}"
                ) from None
            raise
        return worker

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.returncode is None

    def _killed_by(self) -> str:
        """The signal by which another process or the system ended it; empty: none did."""
        code = self._process.returncode
        return signal.Signals(-code).name if code in (-signal.SIGKILL, -signal.SIGTERM) else ""

    async def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str]:
        """Status, body and content type of the answer to a request.

        Raises:
            aiohttp.ClientError: the process died, or closed the connection.
        """
        self.in_flight += 1
        try:
            url = "http://worker/invocations"
            async with self._session.post(url, data=body, headers=headers) as answer:
                kind = answer.headers.get("content-type", "application/json")
                return answer.status, await answer.read(), kind
        finally:
            self.in_flight -= 1

    async def ended(self, wait_sec: float) -> bool:
        """Whether the process ends within ``wait_sec``; if so, reads the rest of its output."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), wait_sec)
            await self._read_rest()
        return not self.is_alive

    async def hangs(self, ping_sec: float) -> bool:
        """Whether it is running but answers none of several pings within ``ping_sec`` each."""
        for _ in range(_PINGS):
            if not self.is_alive or await self._answers(ping_sec):
                return False
        return self.is_alive

    def kill(self) -> None:
        """Kill the process immediately."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def retire(self, wait_sec: float) -> None:
        """Stop when no request is in flight, or after ``wait_sec``."""
        deadline = time.monotonic() + wait_sec
        while self.in_flight and self.is_alive and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await self.stop()

    async def stop(self) -> None:
        """End the process and remove its folder."""
        if self.is_alive:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                self.kill()
                await self._process.wait()
        await self._session.close()
        await self._read_rest()
        self._listening.cancel()
        shutil.rmtree(self._folder, ignore_errors=True)

    def last_output(self) -> str:
        """The last lines of output of the process."""
        text = self._output.decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " / ".join(lines[-_LOG_LINES:])[-500:] or "it wrote nothing"

    async def _listen(self) -> None:
        """Forward the output of the process until it ends."""
        assert self._process.stdout is not None
        while news := await self._process.stdout.read(_LOG_BYTES):
            self._output = (self._output + news)[-_LOG_BYTES:]
            with contextlib.suppress(OSError, ValueError):  # serving does not depend on the log
                print(news.decode(errors="replace"), end="", file=sys.stderr, flush=True)

    async def _read_rest(self) -> None:
        # With a timeout: a child of the process may keep its output open.
        await asyncio.wait({self._listening}, timeout=1.0)

    async def _answers(self, wait_sec: float | None) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(total=wait_sec)
            async with self._session.get("http://worker/ping", timeout=timeout) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _wait_until_up(self) -> None:
        while not await self._answers(None):
            if await self.ended(0.05):
                raise CheckpointError(f"its process ended while loading; {self.last_output()}")

    async def _warm_up(self) -> None:
        """Generate one image: the first takes longer, and it shows that the model works."""
        for row in ({"seed": 0}, {"seed": 0, "class": 0}, {"seed": 0, "label": self._label()}):
            headers = {"content-type": "application/json"}
            body = json.dumps({"dataframe_records": [row]}).encode()
            try:
                status, answer, _ = await self.post(body, headers)
            except aiohttp.ClientError as error:
                await self.ended(_DEATH_SEC)
                raise CheckpointError(f"it died on its first request: {error}") from None
            if status == 200:
                return
        raise CheckpointError(
            f"it cannot generate an image: {answer.decode(errors='replace')[:300]}"
        )

    def _label(self) -> list[float]:
        """A label of a model that was trained with vectors; a model without has no use for it."""
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
            content = json.loads((self.model / _DESCRIPTION).read_text(encoding="utf-8"))
            return list(content["training_set"]["sample_labels"][0])
        return []


def _application(model: Path) -> tuple[str, ...]:
    """Arguments of uvicorn for a version.

    The code folder of the model comes first on the path. If another sg3flow were imported before
    the model is loaded, MLflow would use that one instead of the packaged code.
    """
    code = model / "code"
    name = _MODEL_APP.removesuffix(".py").replace("/", ".") + ":app"
    return (name if (code / _MODEL_APP).is_file() else _MLFLOW_APP), "--app-dir", str(code)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
