"""On a bare GPU machine: torch, numpy, scipy, pillow, typer and pytest are enough.

They are enough for the doctor, the GPU tests and the GPU benchmarks, without a network.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a bare machine has; torch brings filelock, and typer brings rich.
PRESENT = {"torch", "numpy", "scipy", "PIL", "typer", "pytest", "filelock", "rich"}
ABSENT = (
    *("mlflow", "dvc", "dvc_data", "great_expectations", "ruamel", "psutil", "platformdirs"),
    *("pynvml", "requests", "urllib3", "pandas", "pyarrow", "matplotlib", "aiohttp", "jinja2"),
    *("uvicorn", "safetensors", "imageio_ffmpeg", "pyspng", "hypothesis", "xdist"),
)
ENTRIES = (
    "src/sg3flow/__main__.py",
    "src/sg3flow/cli/commands.py",
    "src/sg3flow/cli/status.py",
    "src/sg3flow/ops/__init__.py",
    "src/sg3flow/networks/__init__.py",
    "src/sg3flow/kernels/build.py",
    "src/sg3flow/training/step.py",
    "src/sg3flow/training/assembly.py",
    "benchmarks/convolution_forms.py",
    "benchmarks/gpu.py",
    "benchmarks/gpu_record.py",
    "benchmarks/training_changes.py",
    "tests/conftest.py",
    "tests/cuda/conftest.py",
    "tests/cuda/test_gpu_ops.py",
    "tests/training/conftest.py",
)


def imports_of(nodes: list[ast.stmt]) -> Iterator[tuple[str, list[str]]]:
    """Module and names of the imports that run when a file is imported."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module), [alias.name for alias in node.names]
        elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            yield from imports_of([*node.body, *node.orelse])


def file_of(module: str, beside: Path) -> Path | None:
    """The file of a module of this project; None: it is none."""
    parts = module.split(".")
    for base in (ROOT / "src", beside):
        for path in (
            base.joinpath(*parts).with_suffix(".py"),
            base.joinpath(*parts, "__init__.py"),
        ):
            if path.is_file():
                return path
    return None


def files_imported(path: Path) -> Iterator[Path | str]:
    """Files of the project, and names of other packages, that a file imports as it is imported."""
    for module, names in imports_of(ast.parse(path.read_text(encoding="utf-8")).body):
        wanted = [module, *(f"{module}.{name}" for name in names)]
        files = [file for each in wanted if (file := file_of(each, path.parent))]
        yield from files or [module.partition(".")[0]]


def packages_needed(entry: Path) -> dict[str, str]:
    """Other packages that an entry needs, each with the file that imports it."""
    seen, left, found = set(), [entry], {}
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        for each in files_imported(path):
            if isinstance(each, Path):
                left.append(each)
            elif each not in sys.stdlib_module_names:
                found[each] = path.relative_to(ROOT).as_posix()
    return found


@pytest.mark.parametrize("entry", ENTRIES)
def test_only_what_a_bare_machine_has_is_imported(entry):
    needed = packages_needed(ROOT / entry)
    assert {name: by for name, by in needed.items() if name not in PRESENT} == {}


def test_the_search_for_imports_finds_them():
    found = packages_needed(ROOT / "src/sg3flow/transfers.py")
    assert found["requests"] == "src/sg3flow/transfers.py"
    through = packages_needed(ROOT / "src/sg3flow/checkpoints/loading.py")
    assert through["requests"] == "src/sg3flow/transfers.py"  # by downloads


def run(
    program: str, folder: Path, hidden: Iterable[str] = ABSENT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A Python program on a machine without the hidden packages, and without a network."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({tuple(hidden)}))\n"
    refuse = "import socket; socket.socket.connect = None\n"
    return subprocess.run(
        [sys.executable, "-c", hide + refuse + program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.medium
def test_the_doctor_runs(tmp_path):
    program = "sys.argv[1:] = ['doctor']\nfrom sg3flow.cli import main\nmain()"
    done = run(program, tmp_path, SG3FLOW_OPS="torch")
    assert (done.returncode, done.stderr) == (0, "")
    assert "cpu: pure PyTorch, because SG3FLOW_OPS=torch" in done.stdout
    assert "precision on a GPU: exact float32 (train --tf32 changes it)\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_pytest_finds_all_gpu_tests(tmp_path):
    options = ["-m", "gpu", "--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    program = f"import pytest\nsys.exit(pytest.main([*{options}, {str(ROOT)!r}]))"
    done = run(program, tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/cuda/test_gpu_ops.py::" in done.stdout and "error" not in done.stdout
    needs = "could not import 'sg3flow.training.training_run'"
    assert "tests/training/test_smoke_gpu.py" in done.stdout and needs in done.stdout


TRAINING = """
import dataclasses, pathlib, sys
sys.path.insert(0, sys.argv[1])
from conftest import write_set
from sg3flow.config import TrainConfig
from sg3flow.training.training_run import train
config = TrainConfig(
    cfg="stylegan3-t", gpus=1, batch=500, gamma=1.0, cbase=64, cmax=4, kimg=1, workers=0,
    grid="2x2", device="cpu",
)
here = pathlib.Path.cwd()
print(train(config, write_set(here / "set.zip"), run_dir=here / "out"))
"""


@pytest.mark.medium
def test_a_training_needs_none_of_the_packages_of_the_pipeline(tmp_path):
    """It needs more than the GPU tests: the machine's load, checked downloads, safetensors."""
    hidden = set(ABSENT) - {"psutil", "requests", "urllib3", "safetensors"}
    program = TRAINING.replace("sys.argv[1]", repr(str(ROOT / "tests" / "training")))
    done = run(program, tmp_path, hidden, SG3FLOW_OPS="torch", SG3FLOW_TRACKING="off")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "network-snapshot-000001.pkl").is_file()


def test_a_missing_package_is_no_bug(capsys):
    import typer

    from sg3flow.cli.stage_options import one_line_errors

    with pytest.raises(typer.Exit), one_line_errors(debug=False):
        raise ModuleNotFoundError("No module named 'safetensors.x'", name="safetensors.x")
    message = capsys.readouterr().err
    assert message.startswith(
        "error: the Python package safetensors is not installed; `pip install"
    )
    with pytest.raises(typer.Exit), one_line_errors(debug=False):
        raise ModuleNotFoundError("No module named 'sg3flow.x'", name="sg3flow.x")
    assert "this is a bug" in capsys.readouterr().err


def test_without_ruamel_a_params_file_is_an_error_of_one_line(tmp_path, monkeypatch):
    from sg3flow.errors import ConfigError
    from sg3flow.params_file import read_params

    path = tmp_path / "params.yaml"
    path.write_text("train: {}\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ruamel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ruamel", None)
    with pytest.raises(ConfigError, match=r"reading .*params.yaml needs .*pip install ruamel"):
        read_params(path)
