"""A tiny packed set and tiny settings for training tests."""

import dataclasses
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sg3flow.config import TrainConfig

# Processes that a test starts import their functions from modules in this folder.
sys.path.append(str(Path(__file__).parent))


def write_set(path: Path, *, resolution: int = 16, num_images: int = 24, classes: int = 3) -> Path:
    """A packed set of colored discs, labeled by color."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:resolution, :resolution]
    labels = []
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(num_images):
            pixels = np.full((resolution, resolution, 3), random.randint(0, 80), np.uint8)
            cx, cy = random.uniform(0.3, 0.7, 2) * resolution
            disc = (x - cx) ** 2 + (y - cy) ** 2 < (resolution / 4) ** 2
            pixels[disc] = random.randint(0, 60, 3)
            pixels[disc, i % 3] = 255
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png", compress_level=0)
            name = f"00000/img{i:08d}.png"
            archive.writestr(zipfile.ZipInfo(name), buffer.getvalue())
            labels.append([name, i % classes])
        content = json.dumps({"labels": labels if classes else None})
        archive.writestr(zipfile.ZipInfo("dataset.json"), content)
    return path


@pytest.fixture(scope="session")
def write_packed():
    """`write_set`, for sets of another size."""
    return write_set


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """24 labeled images of 16 x 16."""
    return write_set(tmp_path_factory.mktemp("data") / "tiny.zip")


@pytest.fixture
def vector_set(tiny_set, tmp_path):
    """The tiny set with labels that are vectors."""
    path = tmp_path / "vectors.zip"
    with zipfile.ZipFile(tiny_set) as old, zipfile.ZipFile(path, "w") as new:
        names = [name for name in old.namelist() if name.endswith(".png")]
        labels = [[name, [i / 10, -1.0]] for i, name in enumerate(names)]
        for name in names:
            new.writestr(name, old.read(name))
        new.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


@pytest.fixture
def tiny_config() -> TrainConfig:
    """A training whose step takes a fraction of a second on a CPU."""
    return TrainConfig(
        cfg="stylegan3-t",
        gpus=1,
        batch=4,
        gamma=0.1,
        cbase=256,
        cmax=8,
        kimg=1,
        tick=1,
        snap=1,
        workers=0,
        grid="2x2",
        device="cpu",
    )


@pytest.fixture
def cheap_config(tiny_config) -> TrainConfig:
    """The training that takes the least time for a thousand images."""
    return dataclasses.replace(
        tiny_config,
        cfg="stylegan2",
        batch=100,
        mbstd_group=5,
        cbase=64,
        cmax=2,
        map_depth=1,
        aug="noaug",
    )


@pytest.fixture(scope="session")
def training_environment(empty_database):
    """The environment of a training whose state and tracking database are in a folder.

    ``within_a_step`` makes something happen within a step of a process: see the folder of that
    name.
    """

    def make(
        folder: Path, within_a_step: str = "0 0 none", tracked: bool = False
    ) -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            shutil.copy(empty_database, folder)
        path = [str(Path(__file__).parent / "within_a_step"), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "SG3FLOW_STATE_DIR": str(folder / "state"),
            "SG3FLOW_TRACKING": "" if tracked else "off",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "TEST_WITHIN_A_STEP": within_a_step,
        }

    return make


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch) -> Path:
    """Keeps the state of a test in its temporary folder."""
    state = tmp_path / "state"
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(state))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return state
