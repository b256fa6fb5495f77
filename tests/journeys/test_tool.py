"""A user who installs the wheel: a project from `sg3flow init`, its pipeline, an upgrade.

Nothing of this checkout is on the path. The environment has the wheel and sees the other packages
of the environment that runs the tests.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from sg3flow.files import sha256_file

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[2]
STAGES = ["fetch", "pack", "validate", "train", "evaluate", "render", "register"]
# The starter recipe, made small; stylegan2 trains in a fifth of the time of stylegan3-t.
SMALL = (
    "fetch.images=40 fetch.resolution=32 pack.resolution=16x16 validate.min_images=30 "
    "validate.min_class_images=10 train.cfg=stylegan2 train.batch=100 train.cbase=64 train.cmax=2 "
    "train.map_depth=1 train.mbstd_group=5 train.kimg=1 train.workers=0 train.grid=2x2 "
    "train.resume='' "
    "render.seeds=0-2 render.video_seeds=0-1 evaluate.metrics=[fd_random20_full] "
    "evaluate.best_by=fd_random20_full render.video_frames=4"
).split()
STATUS = ["code:", "\talways changed"]


@dataclasses.dataclass
class User:
    """Somebody with an environment of their own, in a folder.

    Attributes:
        python: of the environment.
        package: the installed package.
        folder: where commands run.
    """

    python: Path
    package: Path
    folder: Path
    home: Path

    def __call__(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        dropped = ("MLFLOW_", "SG3FLOW_", "DVC_", "GIT_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environment = kept | {
            "HOME": str(self.home),  # no name and no address for git
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "SG3FLOW_KERNELS": os.environ["SG3FLOW_KERNELS"],
            "DVC_SITE_CACHE_DIR": str(self.home / "dvc"),
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, text=True, capture_output=True
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def dvc(self, *arguments: str) -> str:
        return self(str(self.python), "-m", "dvc", *arguments).stdout

    def repro(self) -> list[str]:
        """The stages that `dvc repro` ran, without `code`, which always runs."""
        lines = self.dvc("repro").splitlines()
        ran = [line.split("'")[1] for line in lines if line.startswith("Running stage '")]
        assert ran[0] == "code"
        return ran[1:]

    def recorded_version(self) -> str:
        """The version of the package that the training recorded."""
        record = json.loads((self.folder / "runs/train/provenance.json").read_text())
        return record["code"]["version"]

    def edit_package(self, name: str, before: str, after: str) -> None:
        path = self.package / name
        assert before in path.read_text(), f"{name} has no {before!r} any more"
        path.write_text(path.read_text().replace(before, after, 1))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """What git has, as somebody who builds the package has it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git repository: which files belong to the project is not known")
    folder = tmp_path_factory.mktemp("sources")
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # deleted here, but still in the index
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(sources: Path, call: str) -> Path:
    """Call a hook of the build backend with an output folder; returns the file it made."""
    program = f"import setuptools.build_meta as b; print(b.{call}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=sources, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return sources / "dist" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sources) -> Path:
    return build(sources, "build_wheel")


@pytest.fixture(scope="module")
def user(wheel, tmp_path_factory) -> User:
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "env", with_pip=False)
    python = home / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install")
    done = subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-cache-dir", "--quiet", str(wheel)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "env" / "lib" / version / "site-packages"
    # A path in a .pth file is searched last, and the .pth files there are not read: that of an
    # editable sg3flow has no effect.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = home / "my work"
    folder.mkdir()
    return User(python, packages / "sg3flow", folder, home)


def test_a_source_distribution_gives_the_same_wheel(sources, wheel, tmp_path):
    def content(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info.CRC for info in archive.infolist()}

    # Python 3.11.2 has no filter yet, and Python 3.12 warns without one
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(build(sources, "build_sdist"), tmp_path, **safely)
    (unpacked,) = tmp_path.iterdir()
    assert content(build(unpacked, "build_wheel")) == content(wheel)
    carried = {n.removeprefix("sg3flow/project/") for n in content(wheel) if "/project/" in n}
    assert {"dvc.yaml", "MLproject", "recipes/own.yaml", "stages/train.py"} <= carried


@pytest.fixture(scope="module")
def project(user) -> User:
    """A project, after its first `dvc repro`."""
    shown = user("sg3flow", "init", "faces").stdout
    assert "next:" in shown and "dvc repro" in shown
    user.folder = user.folder / "faces"
    assert not (user.folder / "src").exists()
    user("sg3flow", "set", *SMALL)
    assert user.repro() == STAGES
    return user


def test_the_installed_package_trains_and_a_second_time_nothing_runs(project):
    report = json.loads((project.folder / "reports/registered.json").read_text())
    assert report["version"] == "1" and "champion" in report["aliases"]
    record = json.loads((project.folder / "runs/train/provenance.json").read_text())
    assert record["code"]["package_in_tree"] is False
    assert project.recorded_version() == project("sg3flow", "--version").stdout.split()[1]
    lock = (project.folder / "dvc.lock").read_bytes()
    assert project.repro() == []
    assert project.dvc("status").splitlines() == STATUS
    assert (project.folder / "dvc.lock").read_bytes() == lock


def test_the_default_recipe_starts_from_the_network_in_the_package(user, project):
    other = dataclasses.replace(project, folder=project.folder.parent)
    other("sg3flow", "init", "as it comes")
    other.folder = other.folder / "as it comes"
    assert "  resume: starter\n" in (other.folder / "params.yaml").read_text()
    other("sg3flow", "code")
    network = user.package / "checkpoints/starter/network.safetensors"
    line = f"{sha256_file(network)}  checkpoints/starter/network.safetensors"
    assert line in (other.folder / "code/train.txt").read_text().splitlines()
    assert line not in (project.folder / "code/train.txt").read_text()
    drawing = "render images --network starter --seeds 1 --class 0 --outdir out"
    other("sg3flow", *drawing.split())
    assert list((other.folder / "out").glob("*.png"))


def test_an_upgrade_runs_the_stages_again_whose_code_changed(project):
    project.edit_package("training/losses.py", '"""', '"""Another sentence. ')
    project.edit_package("__init__.py", '__version__ = "', '__version__ = "9.')
    assert project.repro() == []
    project.edit_package("reports/validation_page.py", "_MAX_ROWS = 200", "_MAX_ROWS = 100")
    project.edit_package("rendering/video.py", "import ", "_CHANGED = 1\nimport ")
    assert project.repro() == ["validate", "render"]  # the same report, so no training
    assert project.dvc("status").splitlines() == STATUS


def test_the_commands_work_there(project):
    assert "afhqv2-512" in project("sg3flow", "recipes").stdout
    assert "sg3flow-starter version 1" in project("sg3flow", "summary").stdout
    assert "dvc exp run" in project("sg3flow", "sweep", "gamma").stdout
    refused = project("sg3flow", "use", "own", ok=False).stderr
    assert refused.count("\n") == 1 and "uncommitted settings" in refused


@pytest.mark.slow
def test_its_training_is_reproduced_without_a_commit(project):
    project.edit_package("__init__.py", '__version__ = "', '__version__ = "9.')
    done = project("sg3flow", "reproduce", "runs/train")
    # another version, the same numbers
    assert f"warning: the run used sg3flow {project.recorded_version()}, here is 9." in done.stdout
    assert done.stdout.splitlines()[-1] == "equal: every snapshot has the recorded SHA-256"


@pytest.mark.slow
def test_a_version_with_other_numbers_is_refused_and_the_one_to_install_named(project):
    project.edit_package("__init__.py", '__version__ = "', '__version__ = "9.')
    project.edit_package("training/losses.py", "pl_decay: float = 0.01", "pl_decay: float = 0.02")
    refused = project("sg3flow", "reproduce", "runs/train", ok=False).stderr
    assert refused.count("\n") == 1
    assert f"`pip install sg3flow=={project.recorded_version()}`" in refused
