"""``sg3flow export`` to the formats that hold whole networks: nvidia-pkl and safetensors."""

import pytest
import torch
from safetensors.torch import load_file

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.loading import package_generator
from sg3flow.errors import DataError
from sg3flow.export.exporting import export_network
from sg3flow.networks import Discriminator, StyleGAN2Generator

SIZES = {"img_resolution": 16, "img_channels": 3, "channel_base": 256, "channel_max": 16}
DESCRIBED = {"name": "cats", "label_dim": 2, "class_names": ["a", "b"], "licence": "CC0"}


@pytest.fixture
def snapshot(tmp_path):
    networks = {}
    for number, name in enumerate(("G", "G_ema")):
        torch.manual_seed(number)
        networks[name] = StyleGAN2Generator(z_dim=8, c_dim=2, w_dim=8, **SIZES).eval()
    networks["D"] = Discriminator(c_dim=2, **SIZES).eval()
    path = tmp_path / "network-snapshot-000003.pkl"
    save_snapshot(path, **networks, augment_p=0.0, training_set=DESCRIBED, progress={"nimg": 3000})
    return path


def states(path):
    loaded = load_networks(path)
    return {name: getattr(loaded, name) for name in ("G", "D", "G_ema")}, loaded


def assert_same(network, expected):
    state, wanted = network.state_dict(), expected.state_dict()
    assert list(state) == list(wanted) and network.init_kwargs == expected.init_kwargs
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", ["a.pkl", "a.safetensors"])
def test_a_snapshot_comes_back_exactly(snapshot, tmp_path, name):
    written = export_network(str(snapshot), tmp_path / name)
    assert written.form == {"a.pkl": "nvidia-pkl"}.get(name, "safetensors")
    found, loaded = states(tmp_path / name)
    expected, source = states(snapshot)
    if name == "a.safetensors":  # it has no G of its own
        expected["G"] = expected["G_ema"]
    for role, network in found.items():
        assert_same(network, expected[role])
    assert loaded.training_set == source.training_set and loaded.progress == source.progress
    assert export_network(str(snapshot), tmp_path / name).sha256 == written.sha256


@pytest.mark.parametrize("name", ["a.pkl", "a.safetensors"])
def test_a_registered_model_has_no_discriminator(snapshot, tmp_path, name):
    G = load_networks(snapshot).G_ema
    folder = tmp_path / "model" / "artifacts"
    folder.mkdir(parents=True)
    package = package_generator(G, folder, training_set=DESCRIBED, metrics={}, snapshot_sha256="ab")
    written = export_network(str(tmp_path / "model"), tmp_path / name)
    assert ("has no discriminator" in written.checked) is (name == "a.pkl")
    assert written.weights_sha256 == package.weights_sha256
    found, loaded = states(tmp_path / name)
    assert found["D"] is None and loaded.training_set == DESCRIBED
    assert_same(found["G_ema"], G)
    if name == "a.safetensors":
        assert {key.partition(".")[0] for key in load_file(tmp_path / name)} == {"G_ema"}


def test_a_snapshot_is_not_replaced_by_an_export(snapshot):
    before = snapshot.read_bytes()
    with pytest.raises(DataError, match="not a file of the format nvidia-pkl"):
        export_network("starter", snapshot)
    assert snapshot.read_bytes() == before
