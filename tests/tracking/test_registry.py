"""`register` cut short anywhere is completed by the next one."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from sg3flow.checkpoints import save_snapshot
from sg3flow.config import RegisterConfig
from sg3flow.errors import TrackingError
from sg3flow.files import write_json
from sg3flow.networks import Discriminator, StyleGAN3Generator
from sg3flow.registry.history import print_history
from sg3flow.registry.registration import register_best
from sg3flow.tracking.mlflow_store import connect, results_of

# MLflow's own use of SQLAlchemy, pandas and type hints; the caps in pyproject.toml keep it working.
pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType"),
]
_NAME = "network-snapshot-000010.pkl"
_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 512, "channel_max": 16}


@pytest.fixture
def run(own_project) -> Path:
    """A training of one snapshot, which the server knows, and its metrics."""
    torch.manual_seed(0)
    folder = own_project / "run"
    G = StyleGAN3Generator(z_dim=16, c_dim=0, w_dim=16, **_SIZES)
    D = Discriminator(c_dim=0, **_SIZES)
    training_set = {"name": "toy", "resolution": 16, "channels": 3, "label_dim": 0}
    training_set |= {"num_images": 9, "digest": "ab", "mirror": False}
    digest = save_snapshot(
        folder / _NAME,
        G=G,
        D=D,
        G_ema=G,
        augment_p=0.0,
        training_set=training_set,
        progress={"nimg": 10_000},
    )
    write_json(folder / "run.json", {"format": "sg3flow-run-1", "uid": "u1"})
    network = {"source": "starter", "shortened": False, "sha256": "fe" * 32}
    write_json(folder / "provenance.json", {"format": "sg3flow-provenance-1", "network": network})
    _measure(folder, 4.0, digest)
    store = connect()
    tags = {"sg3flow.uid": "u1", "sg3flow.stage": "train", "mlflow.source.git.commit": "c0ffee"}
    store.client.create_run(store.experiment_id, tags=tags)
    return folder


def _measure(folder: Path, value: float, digest: str) -> None:
    row = {
        "snapshot": _NAME,
        "kimg": 10,
        "metric": "fd_random1k_full",
        "value": value,
        "higher_is_better": False,
        "network_sha256": digest,
        "reference_sha256": "r",
        "detector_sha256": "d",
    }
    report = {"format": "sg3flow-metrics-1", "best": {"metric": row["metric"]}, "results": [row]}
    write_json(folder / "metrics.json", report)


def _register(folder: Path) -> dict:
    report = folder.parent / "registered.json"
    return register_best(folder, folder / "metrics.json", report, RegisterConfig(name="toy"))


def _check_registered(value: str) -> None:
    """One version of one model, which says all."""
    store = connect()
    [version] = store.client.search_model_versions("name = 'toy'")
    assert version.tags["sg3flow.commit"] == "c0ffee"
    assert f"| fd_random1k_full | {value} |" in version.description
    assert version.description.startswith("**StyleGAN3Generator, 16 x 16 pixels**, trained on toy")
    assert "| **starts from** | `starter`, SHA-256 `fefefefefefe` |" in version.description
    assert not [key for key in version.tags if key.startswith("sg3flow.result.")]
    assert results_of(version)["fd_random1k_full"]["value"] == float(value)
    changes = version.tags["sg3flow.aliases"].splitlines()
    assert changes[-1].split()[1:5] == ["champion", "-", "->", "1,"]
    [model] = store.client.search_logged_models([store.experiment_id])
    measured = [(metric.key, metric.value, metric.step) for metric in model.metrics]
    assert measured[-1] == ("fd_random1k_full", float(value), 10), "the run has no grouped names"
    assert str(model.status) == "READY" and version.source == f"models:/{model.model_id}"
    training = store.client.get_run(model.source_run_id)
    assert training.data.tags["sg3flow.uid"] == "u1"
    assert [output.model_id for output in training.outputs.model_outputs] == [model.model_id]
    assert mlflow.pyfunc.load_model("models:/toy@champion").predict([{"seed": 1}])[0]["png"]
    kept = Path(mlflow.artifacts.download_artifacts(version.source))
    package = kept / "code" / "sg3flow"
    assert (package / "checkpoints" / "loading.py").is_file() and (
        package / "data/starter"
    ).is_dir()
    # The network that comes with the package is no part of a version.
    assert [path.name for path in kept.rglob("*.safetensors")] == ["generator.safetensors"]


def _failing_once(owner, name: str, failed: set):
    original = getattr(owner, name)

    def call(self, *arguments, **options):
        result = original(self, *arguments, **options)
        if name not in failed:
            failed.add(name)
            raise ConnectionError(f"lost answer of {name}")
        return result

    return call


def test_a_cut_at_any_request_is_made_up_for(run, monkeypatch):
    """Every request fails once, after the server has done what it asks: the answer is lost."""
    failed = set()
    calls = (
        "create_logged_model", "log_outputs", "log_model_artifacts", "finalize_logged_model",
        "_create_model_version", "set_model_version_tag", "update_model_version",
        "set_registered_model_alias",
    )  # fmt: skip
    for name in calls:
        monkeypatch.setattr(MlflowClient, name, _failing_once(MlflowClient, name, failed))
    for _ in calls:
        with contextlib.suppress(TrackingError):
            _register(run)
    assert failed == set(calls)
    assert _register(run)["aliases"] == ["candidate", "champion"]
    _check_registered("4")


def test_a_version_measured_again_says_so(run):
    _register(run)
    _check_registered("4")
    digest = json.loads((run / "metrics.json").read_text())["results"][0]["network_sha256"]
    _measure(run, 3.5, digest)
    assert "already registered" in _register(run)["note"]
    _check_registered("3.5")


def test_a_training_in_another_experiment_is_found(run, monkeypatch, capsys):
    """`MLFLOW_EXPERIMENT_NAME` set for register only."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "paper")
    _register(run)
    [note] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert "the model are in the experiment sg3flow, the run of register is in paper" in note
    [own] = connect().client.search_runs([connect().experiment_id])
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    _check_registered("4")
    [training] = connect().client.search_runs([connect().experiment_id])
    assert own.data.tags["mlflow.parentRunId"] == training.info.run_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "third")
    print_history("toy")
    shown = capsys.readouterr().out
    assert training.info.run_id[:8] in shown  # in one piece, however narrow the terminal
    assert training.info.run_name.split()[0][:8] in shown


def test_a_training_that_mlflow_does_not_have_is_said(run, capsys):
    store = connect()
    [training] = store.client.search_runs([store.experiment_id])
    store.client.delete_run(training.info.run_id)
    _register(run)
    assert f"the training of {run} is not in MLflow" in capsys.readouterr().err


def test_the_champion_of_a_moved_project_loads(run, own_project, monkeypatch, tmp_path):
    """In a new process, from a folder below the project, as its user would."""
    _register(run)
    moved = own_project.rename(own_project.with_name("moved project"))
    (moved / "notes").mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "sg3flow", "render", "images"]
    command += ["--network", "models:/toy@champion", "--seeds", "1", "--outdir", "out"]
    own = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    own |= {"SG3FLOW_OPS": "torch"}
    done = subprocess.run(command, cwd=moved / "notes", env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "now name " + str(moved) in done.stderr
    assert (moved / "notes/out/seed0001.png").is_file()
    assert not own_project.exists()
    predict = "import mlflow; model = mlflow.pyfunc.load_model('models:/toy@champion')\n"
    predict += "print(model.predict([{'seed': 1}])[0]['seed'])"
    own |= {"MLFLOW_TRACKING_URI": f"sqlite:///{moved}/mlflow.db"}
    command = [sys.executable, "-W", "ignore", "-c", predict]
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
