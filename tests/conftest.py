"""Fixtures for every test: the outside files, and a writer of the public pickle format."""

import importlib.util
import os
import pickle
import shutil
import signal
import subprocess
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.settings import cache_folder

# A machine for GPU tests may have nothing but pytest and what the kernels need.
with suppress(ImportError):
    import hypothesis

    # A busy machine is no fault: no test is timed.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")

# A process that uploads takes longer to start than most tests to run: those that look at MLflow
# set it back.
os.environ.setdefault("SG3FLOW_TRACKING", "off")
# Tests give themselves empty caches; the kernels are built once for all of them.
os.environ.setdefault("SG3FLOW_KERNELS", str(cache_folder() / "kernels"))

# What the longest files take, in seconds of an idle core: `make test` begins with them, so that no
# worker is left alone with one at the end.
_LONGEST = {
    "tests/docs/test_commands_run.py": 250,
    "tests/serving": 160,
    "tests/training/test_processes.py": 50,
    "tests/training/test_resume.py": 90,
    "tests/reproduction": 80,
    "tests/tracking/test_outages.py": 80,
    "tests/journeys/test_tool.py": 60,
    "tests/team/test_server.py": 60,
    "tests/training/test_run.py": 60,
    "tests/stages/test_render_register_stages.py": 50,
    "tests/kernels/test_build.py": 50,
}
# Their files share what takes long to start, so one worker gets them all.
_SHARING = {
    "tests/reproduction/": "tests/reproduction",
    "tests/serving/": "tests/serving",
    "tests/test_pipeline.py": "tests/docs/test_commands_run.py",
    "tests/test_disk.py": "tests/docs/test_commands_run.py",
    "tests/reports/test_mlflow_in_a_browser.py": "tests/docs/test_commands_run.py",
    "tests/journeys/test_artist.py": "tests/docs/test_commands_run.py",
    "tests/journeys/test_team.py": "tests/docs/test_commands_run.py",
}


def _scope_of(nodeid: str) -> str:
    """What goes to one worker as a whole: a file, or the files that share."""
    path = nodeid.partition("::")[0]
    return next((scope for start, scope in _SHARING.items() if path.startswith(start)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class LongestFirst(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope_of(nodeid)

    config.option.loadscopereorder = False  # else those with the most tests come first
    return LongestFirst(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Tests of servers and of many processes wait much of their time: one more worker uses it.
    waits = "not medium" not in config.option.markexpr
    return (cores or 1) + waits


def pytest_ignore_collect(collection_path, config):
    """`-m gpu` reads only files with such tests: a machine for them may lack what others import."""
    if "gpu" not in config.option.markexpr or "not gpu" in config.option.markexpr:
        return None
    if collection_path.is_dir():
        return not any(map(_has_gpu_tests, collection_path.rglob("test_*.py"))) or None
    return not _has_gpu_tests(collection_path) or None


def _has_gpu_tests(path: Path) -> bool:
    return "pytest.mark.gpu" in path.read_text(encoding="utf-8")


def pytest_collection_modifyitems(items):
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: -_LONGEST.get(_scope_of(item.nodeid), 0))


_SHARED = Path(os.environ.get("SG3FLOW_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def address_sanitizer() -> Callable[[str], str]:
    """What to preload, so that Python loads what a compiler built with -fsanitize=address."""

    def preload(compiler: str) -> str:
        # the second for the first: it hears exceptions if they are known before it is loaded
        found = []
        for name in ("libasan.so", "libstdc++.so.6"):
            asked = (compiler, f"-print-file-name={name}")
            answer = subprocess.run(asked, capture_output=True, text=True, check=True)
            found.append(answer.stdout.strip())
        if not all(Path(path).is_absolute() for path in found):
            pytest.skip(f"{compiler} has no address sanitizer")
        return " ".join(found)

    return preload


@pytest.fixture
def start_in_terminal():
    """Starts a Python process like a terminal: with SIGINT as given, in a group of its own.

    A shell that runs the tests in the background ignores SIGINT. What still runs at the end of the
    test is killed.
    """
    started = []

    def start(
        command: Sequence[object], environment: Mapping[str, str], interrupt=signal.SIG_DFL
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of expected numbers from an independent implementation."""
    folder = _SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("no folder of golden numbers beside the project (set SG3FLOW_SHARED)")
    return folder


@pytest.fixture(scope="session")
def afhq_sample() -> Path:
    """A zip of 43 real AFHQ photos in the layout of AFHQ v1."""
    path = _SHARED / "afhq" / "afhq-sample.zip"
    if not path.is_file():
        pytest.skip("no AFHQ sample beside the project (set SG3FLOW_SHARED)")
    return path


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An SQLite database with all of MLflow's tables, to be copied: making them takes a second.

    It is made once for all workers of pytest-xdist.
    """
    import filelock

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "empty-database" / "mlflow.db"
    with filelock.FileLock(folder / "empty-database.lock"):
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            new = path.with_name("new.db")
            program = f"import mlflow; mlflow.MlflowClient('sqlite:///{new}').search_experiments()"
            command = [sys.executable, "-c", program]
            subprocess.run(command, cwd=path.parent, check=True, capture_output=True)
            new.rename(path)
    return path


# The starter recipe, made small: from random weights, because the network of the package has 64 px.
_TINY_PARAMS = {
    "fetch": {"images": 40, "resolution": 32},
    "pack": {"resolution": "16x16"},
    "validate": {"min_images": 30, "min_class_images": 10},
    "train": {"batch": 100, "cbase": 128, "cmax": 4, "map_depth": 1, "kimg": 1, "workers": 0}
    | {"grid": "2x2", "resume": "", "gamma": 0.2, "glr": 0.004, "dlr": 0.003},
    "evaluate": {"metrics": ["fd_random20_full", "eqt4_int"], "best_by": "fd_random20_full"}
    | {"batch": 10},
    "render": {"seeds": "0-2", "video_seeds": "0-1", "video_frames": 4},
}


@dataclass(frozen=True)
class FinishedPipeline:
    """A copy of this project in a repository of its own, after `dvc repro` with tiny settings.

    Attributes:
        output: what `dvc repro` printed.
        environment: the environment variables of a new user in an activated environment.
    """

    folder: Path
    output: str
    environment: Mapping[str, str]

    def copy(self, parent: Path) -> tuple[Path, dict[str, str]]:
        """The same pipeline in another folder, whose path has a space, and its variables."""
        folder = parent / "a clone"
        shutil.copytree(self.folder, folder, symlinks=True)
        return folder, {**self.environment, "PYTHONPATH": str(folder / "src")}


@pytest.fixture(scope="session")
def finished_pipeline(tmp_path_factory) -> FinishedPipeline:
    """Runs the pipeline once for all tests that begin with a finished one."""
    root = Path(__file__).parents[1]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git repository: which files belong to the project is not known")
    folder = tmp_path_factory.mktemp("finished") / "a clone"
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted here, but still in the index
            shutil.copy(root / name, folder / name)
    _make_tiny(folder / "params.yaml")
    shutil.copy(folder / "params.yaml", folder / "recipes" / "starter.yaml")
    environment = _new_user(tmp_path_factory.mktemp("home"))
    environment["PYTHONPATH"] = str(folder / "src")
    text = "git init -q -b main && git add -A && git commit -q -m project\n"
    text += "dvc repro\ngit add -A && git commit -q -m results\n"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return FinishedPipeline(folder, done.stdout, environment)


def _make_tiny(path: Path) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    params = yaml.load(path.read_text())
    for section, settings in _TINY_PARAMS.items():
        params[section].update(settings)
    with path.open("w") as stream:
        yaml.dump(params, stream)


def _new_user(home: Path) -> dict[str, str]:
    # Byte code is written into the copy, as on a user's machine: it must not make stages run again.
    dropped = ("MLFLOW_", "SG3FLOW_", "DVC_", "GIT_", "PYTHONDONTWRITEBYTECODE")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
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


_TREE = (".dvc/config", ".dvcignore", ".gitignore", "MLproject", "python_env.yaml",
         "constraints.txt", "dvc.yaml", "params.yaml")  # fmt: skip


@pytest.fixture(scope="session")
def commit_copy():
    """Copies this tree as it is now into a folder and commits it in a repository of its own."""

    def copied(folder: Path) -> Path:
        root = Path(__file__).parents[1]
        for name in ("stages", "src", "recipes", "profiles"):
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(root / name, folder / name, ignore=ignore)
        (folder / ".dvc").mkdir()
        for name in _TREE:
            shutil.copy(root / name, folder / name)
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        for command in (["init", "-q", "-b", "work"], ["add", "-A"], ["commit", "-qm", "first"]):
            subprocess.run(["git", *author, *command], cwd=folder, check=True, capture_output=True)
        return folder

    return copied


class PublicWriter:
    """Writes pickles as the public code does: modules of these names exist only while it writes."""

    def __init__(self, monkeypatch):
        persistence = types.ModuleType("torch_utils.persistence")
        util = types.ModuleType("dnnlib.util")

        def _reconstruct_persistent_obj(meta):
            raise AssertionError("the public code was called")

        class EasyDict(dict):
            pass

        class Stored:
            def __init__(self, meta):
                self.meta = meta

            def __reduce__(self):
                return _reconstruct_persistent_obj, (self.meta,)

        _reconstruct_persistent_obj.__module__ = persistence.__name__
        _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
        EasyDict.__module__, EasyDict.__qualname__ = util.__name__, "EasyDict"
        persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
        util.EasyDict = EasyDict
        self.modules = {
            "torch_utils": types.ModuleType("torch_utils"),
            "torch_utils.persistence": persistence,
            "dnnlib": types.ModuleType("dnnlib"),
            "dnnlib.util": util,
        }
        self.easy_dict, self.stored, self.monkeypatch = EasyDict, Stored, monkeypatch

    def dumps(self, content, protocol=4):
        with self.monkeypatch.context() as patch:
            for name, module in self.modules.items():
                patch.setitem(sys.modules, name, module)
            return pickle.dumps(content, protocol=protocol)

    def write(self, path: Path, content, protocol=4) -> Path:
        path.write_bytes(self.dumps(content, protocol))
        assert "torch_utils" not in sys.modules and "dnnlib" not in sys.modules
        return path

    def module(self, network, class_name, init_kwargs):
        """One of our modules in the public form, with the attributes that theirs carry."""
        children = OrderedDict(
            (name, None if child is None else self.module(child, _class_name(name, child), {}))
            for name, child in network._modules.items()
        )
        state = {
            "training": False,
            "_parameters": OrderedDict(network._parameters),
            "_buffers": OrderedDict(network._buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": children,
            "_init_args": (),
            "_init_kwargs": self.easy_dict(init_kwargs),
            "size": np.int64(36),
            "sampling_rate": np.float64(16.0),
            "sizes": np.asarray([1, 2, 3]),
            "dtype": torch.float32,
            "device": torch.device("cpu"),
            "shape": torch.Size([1, 2]),
        }
        return self.obj(class_name, state)

    def obj(self, class_name, state, **changes):
        source = "import os\nos.abort()\n"
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name}
        return self.stored(self.easy_dict(meta | {"state": state} | changes))


def _class_name(name, module):
    return "ToRGBLayer" if name.startswith("torgb") else type(module).__name__


@pytest.fixture
def public(monkeypatch):
    return PublicWriter(monkeypatch)


@pytest.fixture(params=["torch", "cpu"])
def each_backend(request, monkeypatch) -> str:
    """Runs a test in plain PyTorch, and with the compiled kernels for what they serve: float32."""
    if request.param == "cpu":
        from sg3flow.ops.backend import load_kernels

        try:
            load_kernels("cpu")
        except ConfigError as error:
            pytest.skip(f"no CPU kernels: {error}")
    monkeypatch.setenv("SG3FLOW_OPS", request.param)
    return str(request.param)


def _loaded(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# A fixture of this folder and those below, in a file of its own.
browser = _loaded(Path(__file__).with_name("browser.py")).browser
