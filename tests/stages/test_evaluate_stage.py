import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

STAGE = Path(__file__).parents[2] / "stages" / "evaluate.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a packed set of noise and a run of two snapshots."""
    import torch

    from sg3flow.checkpoints import save_snapshot
    from sg3flow.networks import Discriminator, StyleGAN3Generator

    root = tmp_path_factory.mktemp("pro ject")
    pictures = root / "packed" / "00000"
    pictures.mkdir(parents=True)
    random = np.random.RandomState(0)
    for index in range(20):
        pixels = random.randint(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"img{index:08d}.png")
    torch.manual_seed(0)
    arguments = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}
    G = StyleGAN3Generator(**arguments, channel_base=64, channel_max=4, num_layers=4)
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=32, channel_max=4)
    training_set = {"name": "noise", "resolution": 16, "channels": 3, "label_dim": 0}
    training_set |= {"num_images": 20, "digest": "0" * 64, "mirror": False}
    for kimg in (1, 3):
        with torch.no_grad():
            G.mapping.fc0.weight.mul_(0.9)
        save_snapshot(
            root / "run" / f"network-snapshot-{kimg:06d}.pkl",
            G=G,
            D=D,
            G_ema=G,
            augment_p=0.0,
            training_set=training_set,
            progress={"nimg": kimg * 1000},
        )
    return root


@pytest.fixture
def environment(project, tmp_path, monkeypatch):
    for name in ("DVC_ROOT", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("evaluate_stage", STAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def snapshot_arguments(project, *extra):
    paths = ["--run", project / "run", "--data", project / "packed"]
    outputs = ["--report", "m.json", "--table", "m.csv"]
    return [str(argument) for argument in ("snapshots", *paths, *outputs, *extra)]


@pytest.mark.usefixtures("environment")
def test_snapshots_from_params(project, tmp_path):
    (tmp_path / "params.yaml").write_text(
        "evaluate:\n  metrics: [fd_random16_full, eqt4_int]\n  best_by: eqt4_int\n  seed: 3\n"
    )
    arguments = snapshot_arguments(project, "--params", "params.yaml", "--batch", "8")
    # A process of its own: this one meets MLflow.
    done = subprocess.run(
        [sys.executable, str(STAGE), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["format"] == "sg3flow-metrics-1"
    assert list(report["snapshots"]) == ["000001", "000003"]
    assert report["best"]["metric"] == "eqt4_int"
    assert report["reference"]["num_images"] == 20
    assert {row["seed"] for row in report["results"]} == {3}
    rows = list(csv.reader((tmp_path / "m.csv").read_text().splitlines()))
    assert rows[0] == ["kimg", "fd_random16_full", "eqt4_int"]
    assert [row[0] for row in rows[1:]] == ["1", "3"]
    assert float(rows[1][1]) == report["snapshots"]["000001"]["fd_random16_full"]
    assert done.stdout.count("*") == 1 and "fd_random16_full" in done.stdout


@pytest.mark.usefixtures("environment")
def test_one_network_with_a_report(app, project, tmp_path):
    source = project / "run" / "network-snapshot-000003.pkl"
    arguments = ["--network", source, "--data", project / "packed", "--metrics", "fd_random16_full"]
    arguments = ["network", *map(str, arguments), "--report", "one.json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "fd_random16_full" in done.stdout
    report = json.loads((tmp_path / "one.json").read_text())
    assert report["best"]["snapshot"] == str(source)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--metrics", "fid50k"], "unknown metric 'fid50k' (did you mean 'fid50k_full'?)"),
        (["--metrics", "fd_random9_full", "--best-by", "eqr9"], "best_by 'eqr9' is not among"),
        (["--metrics", "fd_random9_full", "--data", "no.zip"], "no.zip"),
        (["--metrics", "fd_random9_full", "--run", "no"], "no training run at no"),
        (["--metrics", "fd_random9_full", "--table", "mine.csv"], "mine.csv exists and is no"),
        (["--metrics", "fd_random9_full", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(app, project, tmp_path, extra, message):
    (tmp_path / "mine.csv").write_text("name,price\n")
    done = CliRunner().invoke(app, snapshot_arguments(project, *extra))
    assert done.exit_code == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m.json").exists() and not (tmp_path / "m.csv").exists()
    assert (tmp_path / "mine.csv").read_text() == "name,price\n"
