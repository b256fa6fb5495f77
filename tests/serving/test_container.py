"""The container recipe, as far as it can be tried without an engine."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from sg3flow.registry.registration import requirements

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the recipe, continued lines joined."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [tuple(line.split(maxsplit=1)) for line in lines]


@pytest.fixture(scope="module")
def model(registry):
    """A model as `mlflow artifacts download` brings it into the folder of the build."""
    from mlflow.artifacts import download_artifacts

    target = registry.folder / "build" / "model"
    uri = registry.environment["MLFLOW_TRACKING_URI"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        stores = {"tracking_uri": uri, "registry_uri": uri}
        download_artifacts("models:/toy@champion", dst_path=str(target), **stores)
    registry.model = target
    return registry


def _all(instructions, name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions if instruction == name]


def test_the_recipe_is_pinned_and_not_root(instructions):
    images = [arguments.split()[0] for arguments in _all(instructions, "FROM")]
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images)
    last_stage = [name for name, _ in instructions]
    last_stage = last_stage[len(last_stage) - last_stage[::-1].index("FROM") :]
    assert {"USER", "HEALTHCHECK", "CMD", "EXPOSE"} <= set(last_stage)
    (user,) = _all(instructions, "USER")
    assert user.isdecimal() and int(user) > 0
    assert {"ADD", "ENTRYPOINT"}.isdisjoint(name for name, _ in instructions)
    for requirement in requirements():
        assert re.fullmatch(r"[a-z-]+==[\d.]+", requirement)


def test_what_is_copied_exists_and_reaches_the_engine(instructions, model):
    made = {"/venv", "/kernels", "/model"}
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for copy in _all(instructions, "COPY"):
        *sources, _ = [part for part in copy.split() if not part.startswith("--")]
        for source in sources:
            if "--from=build" in copy:
                assert source in made
                continue
            folder = model.folder if source.startswith("build/") else ROOT
            assert (folder / source).exists(), source
            top = "build/model" if source.startswith("build/") else source
            assert f"!{top}" in allowed


def _as_in_the_container(instructions, model) -> tuple[list[str], dict[str, str]]:
    """The command and its environment, but for the folder, the port and what is the tests' own."""
    command = json.loads(_all(instructions, "CMD")[0])
    places = {"8080": "PORT", "/model/code": str(model.model / "code")}
    command = [places.get(word, word) for word in command]
    (env,) = [e for e in _all(instructions, "ENV") if "SG3FLOW_DEVICE" in e]
    variables = dict(pair.split("=", 1) for pair in shlex.split(env))
    for ours in ("PATH", "HOME", "SG3FLOW_KERNELS"):
        del variables[ours]
    return command, {
        name: str(model.model) if value == "/model" else value for name, value in variables.items()
    }


def test_the_command_serves_is_healthy_and_a_stop_lets_requests_be_answered(instructions, model):
    command, variables = _as_in_the_container(instructions, model)
    (check,) = _all(instructions, "HEALTHCHECK")
    probe = json.loads(check[check.index("CMD") + 3 :])
    with model.serving(command, **variables) as server:
        status, text = server.post({"dataframe_records": [{"seed": 1, "class": 0}]})
        assert status == 200 and "png" in json.loads(text)["predictions"][0]
        for body, refusal in (({"rows": []}, 400), (b"[" * 100_000, 400), (b"x" * (17 << 20), 413)):
            status, text = server.post(body)
            assert status == refusal and set(json.loads(text)) == {"error_code", "message"}
        probe[-1] = probe[-1].replace("8080", str(server.port))
        assert subprocess.run([sys.executable, *probe[1:]]).returncode == 0
        seen = server.watch.read_text().splitlines()
        assert not [line for line in seen if line.startswith("pickle")]
        _stop_while_it_answers(server)
    assert subprocess.run([sys.executable, *probe[1:]], capture_output=True).returncode != 0


def _stop_while_it_answers(server) -> None:
    records = [{"seed": seed, "class": 0} for seed in range(64)]
    with ThreadPoolExecutor(1) as threads:
        assert _hears(server.process.pid, signal.SIGTERM)
        process = psutil.Process(server.process.pid)
        before = process.cpu_times().user
        answer = threads.submit(server.post, {"dataframe_records": records})
        while not answer.done() and process.cpu_times().user - before < 0.05:
            time.sleep(0.01)
        process.terminate()  # it has the request
        status, text = answer.result()
        assert status == 200 and len(json.loads(text)["predictions"]) == len(records)
        assert server.process.wait(30) in (0, -signal.SIGTERM)


def _hears(pid: int, number: signal.Signals) -> bool:
    """Whether a process handles a signal itself: a container's first process gets no others."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    assert caught is not None
    return bool(int(caught[1], 16) >> (number - 1) & 1)


IMPORTS = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refusing())
from sg3flow.serving import http_body, pyfunc_model
import starlette  # what model_app needs besides
from sg3flow.ops.backend import load_kernels
load_kernels("cpu")
"""


def test_what_is_served_imports_only_what_the_model_requires():
    """What those packages bring may be imported too; nothing else that the project needs."""
    there = _with_all_they_bring({line.partition("==")[0] for line in requirements()} | {"ninja"})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = _names(project["dependencies"]) - there
    assert {"dvc", "psutil", "rich"} <= others and "scipy" not in others
    modules = [m for m, of in metadata.packages_distributions().items() if of[0].lower() in others]
    assert "dvc" in modules
    command = [sys.executable, "-c", IMPORTS, ",".join(modules)]
    subprocess.run(command, check=True, timeout=120)


def _with_all_they_bring(names: set[str]) -> set[str]:
    while more := set().union(*map(_needed_by, names)) - names:
        names = names | more
    return names


def _needed_by(name: str) -> set[str]:
    """The packages that one requires, without its extras."""
    with suppress(metadata.PackageNotFoundError):  # of another platform
        return _names(line for line in metadata.requires(name) or [] if "extra ==" not in line)
    return set()


def _names(lines: Iterable[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0].lower() for line in lines}


@pytest.mark.slow
def test_the_install_commands_work_in_a_clean_environment(instructions, model, tmp_path):
    """Those of the first stage; the packages come from wherever pip is set up to find them."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    (install,) = [run for run in _all(instructions, "RUN") if run.startswith("pip")]
    words = shlex.split(install.replace("$TORCH_INDEX", os.environ.get("TORCH_INDEX", "")))
    if not os.environ.get("TORCH_INDEX"):
        place = words.index("--extra-index-url")
        del words[place : place + 2]
    places = {
        "/tmp/constraints.txt": str(ROOT / "constraints.txt"),
        "/tmp/requirements.txt": str(model.model / "requirements.txt"),
    }
    command = [str(venv / "bin" / words[0]), *[places.get(word, word) for word in words[1:]]]
    subprocess.run(command, check=True)
    (build,) = [run for run in _all(instructions, "RUN") if "load_kernels" in run]
    environment = os.environ | {
        "PYTHONPATH": str(model.model / "code"),
        "SG3FLOW_KERNELS": str(tmp_path / "kernels"),
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    code = shlex.split(build)[-1]
    subprocess.run([str(venv / "bin/python"), "-c", code], env=environment, check=True)
    assert list((tmp_path / "kernels").rglob("*.so"))
