"""Networks by path, URL, registered model and run."""

import functools
import http.server
import json
import threading

import pytest
import torch

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.loading import package_generator
from sg3flow.errors import CheckpointError, DataError, TrackingError


@pytest.fixture
def saved(networks, tmp_path):
    G, D = networks("stylegan3-t")
    path = tmp_path / "runs" / "network-snapshot-000010.pkl"
    save_snapshot(path, G=G, D=D, G_ema=G, augment_p=0, training_set={}, progress={})
    return path, G


def assert_is(G, expected):
    state = expected.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in G.state_dict().items())


TRAINING_SET = {"name": "toy", "licence": "CC0", "class_names": ["cat", "dog", "fox"]}


def write_model(folder, G):
    """A registered model as MLflow lays it out."""
    package_generator(
        G, folder / "artifacts", training_set=TRAINING_SET, metrics={}, snapshot_sha256="ab"
    )
    return folder


def test_path_text_and_file_url(saved):
    path, G = saved
    for source in (path, str(path), path.as_uri(), path.parent):
        assert_is(load_networks(source).G_ema, G)


def test_a_file_url_of_another_machine_is_refused(saved):
    path, _ = saved
    with pytest.raises(DataError, match="must not name another machine, as 'otherhost'"):
        load_networks(f"file://otherhost{path}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "no network is given"),  # not the current folder
        ("x" * 5000, r"cannot read x+… \(5000 characters\): File name too long"),
        ("dir/" * 2000 + "a.pkl", "File name too long"),
    ],
)
def test_no_name_and_an_endless_one_are_refused(saved, monkeypatch, source, words):
    path, _ = saved
    monkeypatch.chdir(path.parent)
    with pytest.raises(CheckpointError, match=words):
        load_networks(source)


def test_a_folder_that_may_not_be_read_is_named(monkeypatch, tmp_path):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "exists", refused)
    with pytest.raises(CheckpointError, match=r"cannot read .*a\.pkl: Permission denied"):
        load_networks(tmp_path / "a.pkl")


def test_a_missing_file_names_the_nearest(saved):
    path, _ = saved
    with pytest.raises(CheckpointError, match=r"did you mean 'network-snapshot-000010\.pkl'"):
        load_networks(path.with_name("network-snapshot-00010.pkl"))
    with pytest.raises(CheckpointError, match=r"found: network-snapshot-000010\.pkl"):
        load_networks(path.with_name("x"))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_networks(path.parent / "nowhere" / "a.pkl")
    with pytest.raises(CheckpointError, match="expected a path, https"):
        load_networks("s3://bucket/a.pkl")


def test_http_is_kept_in_the_cache(saved, tmp_path, monkeypatch):
    path, G = saved
    monkeypatch.setenv("SG3FLOW_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(Quiet, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        assert_is(load_networks(url).G, G)
        server.shutdown()
    assert_is(load_networks(url).G, G)  # the server is gone


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_registered_model_folder(networks, tmp_path):
    G, _ = networks("stylegan2", 3)
    loaded = load_networks(write_model(tmp_path / "model", G))
    assert_is(loaded.G_ema, G)
    assert loaded.G is loaded.D is loaded.augment_pipe is None
    assert loaded.training_set == TRAINING_SET


def test_a_damaged_model_folder_is_named(networks, tmp_path):
    G, _ = networks("stylegan3-t")
    artifacts = write_model(tmp_path / "model", G) / "artifacts"
    (artifacts / "generator.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="no usable generator"):
        load_networks(tmp_path / "model")
    (artifacts / "generator.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no usable generator"):
        load_networks(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_name": "Evil"}, "unknown network 'Evil'"),
        ({"init_kwargs": [1]}, "generator.safetensors"),
        ({"format": "sg3flow-generator-2"}, "does not describe a generator"),
        ({"training_set": None}, "does not describe the training set"),
        (None, "does not describe a generator"),
    ],
)
def test_a_wrong_description_is_named(networks, tmp_path, changes, words):
    G, _ = networks("stylegan3-t")
    description = write_model(tmp_path / "model", G) / "artifacts" / "generator.json"
    content = json.loads(description.read_text()) | changes if changes else []
    description.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=words):
        load_networks(tmp_path / "model")


def test_a_mixed_model_folder_is_refused(networks, tmp_path):
    G, _ = networks("stylegan3-t")
    weights = write_model(tmp_path / "model", G) / "artifacts" / "generator.safetensors"
    next(G.parameters()).data.add_(1)
    other = write_model(tmp_path / "other", G) / "artifacts" / "generator.safetensors"
    weights.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match=r"is not the file that generator\.json describes"):
        load_networks(tmp_path / "model")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.medium
def test_runs_and_models_of_a_tracking_store(saved, tmp_path, monkeypatch):
    path, G = saved
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    from sg3flow.tracking.mlflow_store import connect

    monkeypatch.chdir(tmp_path)
    store = connect()
    run = store.client.create_run(store.experiment_id)
    store.client.log_artifact(run.info.run_id, str(path), "snapshots")
    assert_is(load_networks(f"runs:/{run.info.run_id}/snapshots/{path.name}").G, G)
    folder = write_model(tmp_path / "model", G)
    store.client.create_registered_model("cats")
    version = store.client.create_model_version("cats", folder.as_uri())
    store.client.set_registered_model_alias("cats", "champion", version.version)
    for source in ("models:/cats@champion", f"models:/cats/{version.version}"):
        assert_is(load_networks(source).G_ema, G)
    with pytest.raises(TrackingError, match="models:/cats@challenger"):
        load_networks("models:/cats@challenger")
