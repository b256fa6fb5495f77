"""The commands stages/pack.py and stages/validate.py as a person calls them."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.medium

_ROOT = Path(__file__).parents[2]


def stage(name: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "stages" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory) -> str:
    """One database for all tests of this file: to create one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@pytest.fixture
def project(tmp_path, tracking_uri, monkeypatch) -> Path:
    """A folder with raw pictures of two classes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    for i in range(4):
        path = tmp_path / "data/raw" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(i).randint(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


def test_the_commands_of_the_article(afhq_sample, project):
    with zipfile.ZipFile(afhq_sample) as archive:
        archive.extractall(project / "data/raw")
    options = ("--source", "data/raw/afhq/train/cat", "--dest", "data/afhq-256x256.zip")
    packed = stage("pack", *options, "--resolution", "256x256", cwd=project)
    assert packed.returncode == 0, packed.stderr
    assert "packed 10 of 10 images into data/afhq-256x256.zip (256x256 color" in packed.stdout
    assert (project / "data/afhq-256x256.manifest.parquet").is_file()


def test_pack_then_validate(project):
    paths = ("--manifest", "data/manifest.parquet")
    params = project / "params.yaml"
    params.write_text(
        "pack: {labels: folders, resolution: 16x16}\nvalidate: {min_images: 4, classes: 2}\n"
    )
    (project / "data/raw/a/clip.mov").write_bytes(b"no picture")
    options = (*paths, "--source", "data/raw", "--dest", "data/packed.zip", "--params", params)
    packed = stage("pack", *options, cwd=project)
    assert packed.returncode == 0, packed.stderr
    assert len(packed.stdout.splitlines()) == 2  # with the next step
    assert "; ignored 1 file that is no known picture: 1 .mov" in packed.stdout
    options = (*paths, "--packed", "data/packed.zip", "--raw", "data/raw", "--params", params)
    done = stage("validate", *options, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "4 images passed" in done.stdout
    assert done.stderr.splitlines() == ["validating: 4/4 in 0 s"]
    assert json.loads((project / "reports/validation.json").read_text())["success"]
    failed = stage("validate", *options, "--min-images", 5, cwd=project)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: validation failed (enough_pictures)")
    assert not json.loads((project / "reports/validation.json").read_text())["success"]
    assert "<h1>packed.zip</h1>" in (project / "reports/validation.html").read_text()


def test_a_bad_picture_ends_in_one_line(project):
    (project / "data/raw/a/bad.png").write_bytes(b"no picture")
    done = stage("pack", "--source", "data/raw", "--dest", "data/packed.zip", cwd=project)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a/bad.png: not a picture" in done.stderr.splitlines()[-1]
    assert [path.name for path in (project / "data").iterdir()] == ["raw"]
