import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

STAGE = Path(__file__).parents[2] / "stages" / "fetch.py"


@pytest.fixture
def stage(tmp_path: Path) -> "Stage":
    return Stage(tmp_path)


class Stage:
    """The stage as a user runs it: its own process, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SG3FLOW_CACHE": str(folder / "cache"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(STAGE), *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def fails(self, *arguments: object) -> str:
        """Run it, expecting an error in one line; returns the line."""
        done = self(*arguments)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and len(errors) == 1, done.stderr
        assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr
        return errors[0]


def test_starter_from_params_and_tracked(stage: Stage) -> None:
    params = stage.folder / "params.yaml"
    params.write_text("fetch:\n  dataset: starter\n  images: 9\n  resolution: 16\n")
    stage.environment["SG3FLOW_TRACKING"] = ""
    done = stage("--params", params, "--dest", "data/raw")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "9 images of starter in data/raw"
    assert second.startswith("next: python ") and second.endswith(f"--params {params}")
    source = json.loads((stage.folder / "data/raw/SOURCE.json").read_text())
    assert source["counts"]["starter/train/cat"] == 3
    with closing(sqlite3.connect(stage.folder / "mlflow.db")) as store:
        assert ("data/num_images", 9.0) in store.execute(
            "SELECT key, value FROM metrics"
        ).fetchall()
        assert ("dataset", "starter") in store.execute("SELECT key, value FROM params").fetchall()
        ((place,),) = store.execute("SELECT artifact_uri FROM runs").fetchall()
    tracked = stage.folder / place.removeprefix("file://") / "SOURCE.json"
    assert json.loads(tracked.read_text()) == source


def test_files_that_are_no_pictures_are_told(stage: Stage) -> None:
    with zipfile.ZipFile(stage.folder / "mine.zip", "w") as archive:
        archive.writestr("a.png", b"not looked at yet")
        archive.writestr("b.mov", b"x")
    done = stage("--dataset", "mine.zip", "--dest", "raw")
    assert done.returncode == 0, done.stderr
    words = "ignored 1 file that is no known picture: 1 .mov"
    assert done.stdout.splitlines()[0] == f"1 images of mine in raw; {words}"


def test_wrong_sources_end_in_one_line(stage: Stage) -> None:
    assert "did you mean 'starter'" in stage.fails("--dataset", "startr", "--dest", "raw")
    assert "no file or folder none.zip" in stage.fails("--dataset", "none.zip", "--dest", "raw")
    assert not (stage.folder / "mlflow.db").exists()  # found before a run was opened


def test_zips_that_cannot_be_trusted_end_in_one_line(stage: Stage) -> None:
    (stage.folder / "bad.zip").write_bytes(b"PK but not really")
    assert "is not a complete zip file" in stage.fails("--dataset", "bad.zip", "--dest", "raw")
    with zipfile.ZipFile(stage.folder / "evil.zip", "w") as archive:
        archive.writestr("../../evil.png", b"x")
    assert "leads out" in stage.fails("--dataset", "evil.zip", "--dest", "raw")
    assert not (stage.folder / "raw").exists()
    assert not (stage.folder.parent / "evil.png").exists()


def test_a_foreign_target_is_left_alone(stage: Stage) -> None:
    (stage.folder / "raw").mkdir()
    (stage.folder / "raw" / "mine.txt").write_text("x")
    error = stage.fails("--dataset", "starter", "--images", "3", "--dest", "raw")
    assert "not a folder of fetched pictures made by sg3flow" in error
    assert [path.name for path in (stage.folder / "raw").iterdir()] == ["mine.txt"]


def test_help_shows_the_settings(stage: Stage) -> None:
    done = stage("--help")
    assert done.returncode == 0 and "--dataset" in done.stdout and "--sha256" in done.stdout
