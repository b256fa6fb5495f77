"""``sg3flow evaluate spectra``: its files, its MLflow run, and its errors."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.cli.commands import app


@pytest.fixture
def sets(tmp_path, monkeypatch):
    for name in ("DVC_ROOT", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    for name in ("reals", "drawn"):
        (tmp_path / name).mkdir()
        for number in range(6):
            pixels = random.randint(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def run(*arguments):
    command = ["evaluate", "spectra", "--interp", "2", "--device", "cpu", *map(str, arguments)]
    return CliRunner().invoke(app, command)


@pytest.mark.medium
def test_files_and_run(sets, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("SG3FLOW_TRACKING", "on")
    done = run("--source", "drawn", "--data", "reals", "--outdir", "out")
    assert done.exit_code == 0, done.stderr
    assert "drawn  " in done.stdout and "dB from the reals" in done.stdout
    found = {path.name for path in (sets / "out").iterdir()}
    expected = {"reals.npz", "drawn.npz", "spectra.json"}
    assert found == expected | {"slices.csv", "slices.png", "heatmap.png"}
    value = json.loads((sets / "out" / "spectra.json").read_text())["spectra"][1]["deviation_db"]
    client = MlflowClient(f"sqlite:///{sets}/mlflow.db")
    (tracked,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert list(tracked.data.metrics.values()) == [value]
    names = {artifact.path for artifact in client.list_artifacts(tracked.info.run_id)}
    assert {"heatmap.png", "slices.png", "slices.csv", "spectra.json", "images"} <= names
    again = run("--source", "drawn", "--data", "reals", "--outdir", "out")
    assert again.exit_code == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--source", "nothing"), "nothing"),
        (("--source", "drawn", "--data", "nothing"), "nothing"),
        (("--source", "drawn", "--num", "0"), "num must be at least 1"),
        (("--source", "drawn", "--beta", "-1"), "beta must be at least 0"),
        (("--source", "drawn", "--outdir", "drawn"), "--outdir"),
        ((), "--source"),
    ],
)
def test_errors_are_one_line(sets, monkeypatch, arguments, words):
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")
    done = run(*arguments)
    assert done.exit_code != 0 and words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (sets / "reports").exists()
