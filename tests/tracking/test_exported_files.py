"""An exported file is logged to the run of its network, and the registered version gets a tag."""

import json
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import torch
from typer.testing import CliRunner

from sg3flow.checkpoints import save_snapshot
from sg3flow.cli.commands import app
from sg3flow.errors import TrackingError
from sg3flow.files import sha256_file
from sg3flow.networks import Discriminator, StyleGAN2Generator
from sg3flow.tracking.exported_files import find_origin
from sg3flow.tracking.mlflow_store import Store, connect

# MLflow's own use of SQLAlchemy; the caps in pyproject.toml keep it working.
pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]
_SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 4}


@dataclass(frozen=True)
class Registered:
    """Version 1 of ``toy``, with the alias ``champion``, made of a snapshot in a run."""

    store: Store
    run_id: str

    def exports(self) -> list[str]:
        found = self.store.client.list_artifacts(self.run_id, "exports")
        return [Path(each.path).name for each in found]

    def tags(self) -> dict[str, str]:
        return dict(self.store.client.get_model_version("toy", "1").tags)


@pytest.fixture
def registered(own_project) -> Registered:
    torch.manual_seed(0)
    G = StyleGAN2Generator(z_dim=4, c_dim=0, w_dim=4, **_SIZES)
    path = own_project / "network-snapshot-000001.pkl"
    D = Discriminator(c_dim=0, **_SIZES)
    described = {"name": "toy", "label_dim": 0}
    save_snapshot(
        path, G=G, D=D, G_ema=G, augment_p=0.0, training_set=described, progress={"nimg": 0}
    )
    store = connect()
    run_id = store.client.create_run(store.experiment_id).info.run_id
    store.client.log_artifact(run_id, str(path), "network")
    store.client.create_registered_model("toy")
    store.client.create_model_version("toy", f"runs:/{run_id}/network", run_id)
    store.client.set_registered_model_alias("toy", "champion", "1")
    return Registered(store, run_id)


def export(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("address", ["models:/toy@champion", "models:/toy/1"])
def test_a_version_gets_the_file_and_a_tag(registered, tmp_path, address):
    dest = tmp_path / "toy.pt"
    code, said, problem = export(address, dest)
    assert code == 0, problem
    artifact = f"runs:/{registered.run_id}/exports/toy.pt"
    assert said.endswith(f"logged as {artifact}; version 1 of toy has a tag\n")
    assert registered.exports() == ["toy.pt"]
    copy = Path(mlflow.artifacts.download_artifacts(artifact))
    assert copy.read_bytes() == dest.read_bytes()
    tag = json.loads(registered.tags()["sg3flow.export.torchscript"])
    assert tag == {"artifact": artifact, "sha256": sha256_file(dest)}


def test_a_network_of_a_run_is_logged_there(registered, tmp_path):
    code, said, problem = export(f"runs:/{registered.run_id}/network", tmp_path / "a.pt")
    assert code == 0, problem
    assert said.endswith(f"logged as runs:/{registered.run_id}/exports/a.pt\n")
    assert registered.exports() == ["a.pt"] and not registered.tags()


def test_without_tracking_there_is_only_the_file(registered, tmp_path, monkeypatch):
    assert export("models:/toy/1", tmp_path / "a.pt", "--no-log")[0] == 0
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")
    code, said, _ = export("models:/toy@champion", tmp_path / "b.pt")
    assert code == 0 and "logged" not in said
    assert (tmp_path / "a.pt").is_file() and (tmp_path / "b.pt").is_file()
    assert not registered.exports() and not registered.tags()


def test_a_file_that_cannot_be_logged_stays(registered, tmp_path, monkeypatch):
    def failing(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_artifact", failing)
    code, said, problem = export("models:/toy/1", tmp_path / "a.pt")
    assert code == 1 and problem.count("\n") == 1 and "torchscript" in said
    assert "is complete but was not logged" in problem and "--no-log" in problem
    assert (tmp_path / "a.pt").is_file() and not registered.tags()


def test_an_unknown_version_leaves_no_file(registered, tmp_path):
    for address in ("models:/toy@chamption", "models:/toy/7", "models:/tay/1", "runs:/0f/network"):
        code, _, problem = export(address, tmp_path / "a.pt")
        assert code == 1 and problem.startswith("error: ") and problem.count("\n") == 1
    assert not list(tmp_path.glob("*.pt"))


def test_where_networks_are(registered, tmp_path):
    for elsewhere in ("starter", "a/models:/b", str(tmp_path / "a.pkl"), "https://x.org/a.pkl"):
        assert find_origin(elsewhere) is None
    found = find_origin("models:/toy@champion")
    assert found.address == "models:/toy/1" and found.version == ("toy", "1")
    client = registered.store.client
    model = client.create_logged_model(
        registered.store.experiment_id, name="generator", source_run_id=registered.run_id
    )
    assert find_origin(f"models:/{model.model_id}").run_id == registered.run_id
    client.create_model_version("toy", f"models:/{model.model_id}", model_id=model.model_id)
    assert find_origin("models:/toy/2").run_id == registered.run_id
    with pytest.raises(TrackingError, match="toy has no version 9"):
        find_origin("models:/toy/9")


def test_a_version_without_a_run_says_that_nothing_is_logged(registered, tmp_path):
    client = registered.store.client
    client.create_model_version("toy", f"runs:/{registered.run_id}/network")
    code, said, problem = export("models:/toy/2", tmp_path / "a.pt")
    assert code == 0, problem
    assert "not logged: MLflow has no run" in said and not registered.exports()
