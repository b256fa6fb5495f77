"""A small project of its own in git, with one tiny training."""

import io
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

SETTINGS = (
    "--cfg stylegan2 --gpus 1 --batch 100 --gamma 0.1 --cbase 64 --cmax 2 --map-depth 1 "
    "--mbstd-group 5 --aug noaug --kimg 1 --tick 1 --snap 1 --workers 0 --grid 2x2 --device cpu"
).split()


@dataclass
class Project:
    """A clone in which things are run as a person would."""

    folder: Path

    def __call__(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        dropped = ("MLFLOW_", "SG3FLOW_STATE", "SG3FLOW_TRACKING", "DVC_", "GIT_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        environment = kept | {
            "PYTHONPATH": str(self.folder / "src"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, text=True, capture_output=True
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def git(self, *arguments: str) -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        return self("git", *author, *arguments).stdout.strip()

    def train(self, out: str, *more: str) -> Path:
        data = ("--data", "data/tiny.zip", "--run-dir", out)
        self("python", "stages/train.py", *SETTINGS, *data, *more)
        return self.folder / out

    def reproduce(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        program = "from sg3flow.cli import main; main()"
        return self("python", "-c", program, "reproduce", *arguments, ok=ok)


@pytest.fixture(scope="session")
def make_project(commit_copy):
    """Makes a project of its own, for a test that needs one."""
    return lambda folder: Project(commit_copy(folder))


@pytest.fixture(scope="session")
def project(tmp_path_factory, make_project) -> Project:
    """A project in a folder whose name has a space, with a packed set and one training."""
    project = make_project(tmp_path_factory.mktemp("reproduction") / "a clone")
    write_set(project.folder / "data" / "tiny.zip")
    project.train("runs/first")
    return project


def write_set(path: Path, shade: int = 0) -> Path:
    """A packed set of eight images of one color, of 16 x 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (20 * i, shade, 255 - 20 * i)).save(buffer, "png")
            archive.writestr(zipfile.ZipInfo(f"00000/img{i:08d}.png"), buffer.getvalue())
    return path


@pytest.fixture(scope="session")
def write_packed():
    """`write_set`, for sets of another shade."""
    return write_set
