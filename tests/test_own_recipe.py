"""The recipe for one's own pictures takes a folder of any of them as far as the training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sg3flow.params_file import set_values

pytestmark = pytest.mark.medium

ROOT = Path(__file__).parents[1]
STAGES = {
    "fetch": "--dest data/raw",
    "pack": "--source data/raw --dest data/packed.zip --manifest data/manifest.parquet",
    "validate": "--manifest data/manifest.parquet --packed data/packed.zip --raw data/raw "
    "--report reports/validation.json --html reports/validation.html",
    "train": "--data data/packed.zip --run-dir runs/train --device cpu --dry-run",
}


def test_own_pictures_pass_validation(tmp_path):
    pictures = tmp_path / "my pictures" / "holiday"
    pictures.mkdir(parents=True)
    draw = np.random.RandomState(0)
    for i in range(6):
        noise = draw.randint(0, 256, [8, 10, 3], dtype=np.uint8)
        Image.fromarray(noise).resize((300, 260)).save(pictures / f"{i}.jpg")
    params = tmp_path / "params.yaml"
    shutil.copy(ROOT / "recipes" / "own.yaml", params)
    set_values(params, [f'fetch.dataset="{pictures.parent}"', "validate.min_images=6"])
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(tmp_path)}
    for stage, arguments in STAGES.items():
        script = str(ROOT / "stages" / f"{stage}.py")
        command = [sys.executable, script, "--params", str(params), *arguments.split()]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{stage}: {done.stdout}{done.stderr}"
