"""Versions that sg3flow 0.1 registered: they carry its code, and are served with that."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sg3flow.serving.model_worker import Worker

ROOT = Path(__file__).parents[2]
_OLD_COMMIT = "cf2abc6"  # the last one before serving/ was rewritten

# All of it runs with the old code.
_SAVE = """
import sys
from pathlib import Path
import mlflow
import torch
import sg3flow
from sg3flow.networks import StyleGAN3Generator
from sg3flow.serving import pyfunc
from sg3flow.serving.package import package_generator
folder = Path(sys.argv[1])
torch.manual_seed(0)
sizes = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}
G = StyleGAN3Generator(z_dim=16, c_dim=3, w_dim=16, **sizes).eval()
package = package_generator(
    G, folder / "package", training_set={"name": "toy"}, metrics={}, snapshot_sha256="ab" * 32
)
mlflow.pyfunc.save_model(
    folder / "model",
    python_model=pyfunc.__file__,
    artifacts={"weights": str(package.weights), "description": str(package.description)},
    code_paths=[str(Path(sg3flow.__file__).parent)],
    signature=pyfunc.signature(),
    pip_requirements=["mlflow"],
)
"""

# In a fresh process whose path has the new code.
_LOAD = """
import json, sys
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
assert sys.modules["sg3flow"].__file__.startswith(sys.argv[1])
print(json.dumps(model.predict([{"seed": 1, "class": 2}])))
"""


@pytest.fixture(scope="module")
def old_model(tmp_path_factory) -> Path:
    """A model as 0.1 saves it; the history of this repository has the code."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", _OLD_COMMIT, "src"], capture_output=True
    )
    if archive.returncode != 0:
        pytest.skip("the history of this checkout does not reach back to sg3flow 0.1")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    _run(_SAVE, folder, folder / "src")
    return folder / "model"


def _run(code: str, argument: Path, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(argument)],
        env=os.environ | {"PYTHONPATH": str(path), "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.medium
def test_an_old_version_is_served_and_loaded_with_its_own_code(old_model, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    loaded = json.loads(_run(_LOAD, old_model, ROOT / "src"))

    async def ask() -> None:
        worker = await Worker.start("1", old_model, 600)
        try:
            headers = {"content-type": "application/json"}
            for row, status in (({"seed": 1, "class": 2}, 200), ({"seed": 1, "clas": 2}, 400)):
                body = json.dumps({"dataframe_records": [row]}).encode()
                found, text, _ = await worker.post(body, headers)
                assert found == status, text
                answer = json.loads(text)
                if status == 200:
                    assert answer["predictions"] == loaded
                else:
                    assert "unknown column 'clas' (did you mean 'class'?)" in answer["message"]
        finally:
            await worker.stop()

    asyncio.run(ask())
