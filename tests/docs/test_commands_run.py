"""The commands of README and docs, run in a clone after a pipeline run with tiny settings."""

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

LONGEST_SEC = 900


@pytest.fixture(scope="module")
def documented(finished_pipeline, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A clone of the project after `dvc repro`, and the environment variables of its user."""
    return finished_pipeline.copy(tmp_path_factory.mktemp("documented"))


@pytest.fixture(scope="module")
def experiments() -> set[str]:
    """The commands so far that made an experiment of the clone: two pages may show the same."""
    return set()


def test_every_command_works(page, blocks, documented, experiments):
    clone, environment = documented
    from_port = _free_ports()
    with ExitStack() as servers:
        for block in blocks:
            if not block.runs_here:
                continue
            lines = block.text.splitlines(keepends=True)
            text = "".join(line for line in lines if line not in experiments)
            experiments |= {line for line in lines if line.startswith("dvc exp run --name ")}
            text = re.sub(r"\b(?:50[0-9]{2}|9000)\b", lambda m: str(from_port[m[0]]), text)
            if block.is_server:
                servers.enter_context(_serving(text, clone, environment))
            else:
                _run(text, clone, environment, f"{page.name}:{block.line}")
    _run("git checkout -q -- . && git clean -qfd", clone, environment)


def _run(text: str, folder: Path, environment: dict[str, str], where: str = "preparing") -> None:
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONGEST_SEC,
    )
    assert done.returncode == 0, f"{where}\n{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@contextmanager
def _serving(text: str, folder: Path, environment: dict[str, str]):
    """Run a server until the block ends; first wait until its port answers."""
    port = re.search(r"--port[ =](\d+)", text)
    assert port, f"a server without a port: {text}"
    log = (folder / "state" / "documented-server.log").open("wb")
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", f"exec {text.strip()}" if "\n" not in text else text],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port[1]}/health", process)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def _wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {url}")


def _free_ports() -> dict[str, int]:
    """A free port for each one that the pages name."""

    class Ports(dict):
        def __missing__(self, name: str) -> int:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self[name] = probe.getsockname()[1]
            return self[name]

    return Ports()
