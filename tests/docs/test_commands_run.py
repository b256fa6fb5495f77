"""The commands of README and docs, run in a clone after a pipeline run with tiny settings."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
LONGEST_SEC = 900
# The starter recipe, made small: the commands of the pages work; sizes and numbers differ.
TINY = {
    "fetch": {"images": 40, "resolution": 32},
    "pack": {"resolution": "16x16"},
    "validate": {"min_images": 30, "min_class_images": 10},
    "train": {"batch": 100, "cbase": 128, "cmax": 4, "map_depth": 1, "kimg": 1, "workers": 0}
    | {"grid": "2x2"},
    "evaluate": {"metrics": ["fd_random20_full"], "best_by": "fd_random20_full", "batch": 10},
    "render": {"seeds": "0-2", "video_seeds": "0-1", "video_frames": 4},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """The environment variables of a new user in an activated environment."""
    dropped = ("MLFLOW_", "SG3FLOW_", "DVC_", "GIT_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    home = tmp_path_factory.mktemp("home")
    return inherited | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SG3FLOW_KERNELS": os.environ["SG3FLOW_KERNELS"],
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GIT_AUTHOR_NAME": "a reader",
        "GIT_AUTHOR_EMAIL": "reader@example.org",
        "GIT_COMMITTER_NAME": "a reader",
        "GIT_COMMITTER_EMAIL": "reader@example.org",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory, environment) -> Path:
    """A copy of this project in a separate repository, after `dvc repro`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git repository: which files belong to the project is not known")
    folder = tmp_path_factory.mktemp("documented") / "sg3flow"
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted here, but still in the index
            shutil.copy(ROOT / name, folder / name)
    environment["PYTHONPATH"] = str(folder / "src")
    _make_tiny(folder / "params.yaml")
    (folder / "recipes" / "starter.yaml").write_bytes((folder / "params.yaml").read_bytes())
    _run("git init -q -b main && git add -A && git commit -q -m project", folder, environment)
    _run("dvc repro && git add -A && git commit -q -m results", folder, environment)
    return folder


def _make_tiny(path: Path) -> None:
    yaml = YAML()
    params = yaml.load(path.read_text())
    for section, settings in TINY.items():
        params[section].update(settings)
    with path.open("w") as stream:
        yaml.dump(params, stream)


@pytest.fixture(scope="module")
def experiments() -> set[str]:
    """The commands so far that made an experiment of the clone: two pages may show the same."""
    return set()


def test_every_command_works(page, blocks, clone, environment, experiments):
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
