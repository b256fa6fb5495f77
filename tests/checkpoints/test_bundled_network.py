"""The network that comes with the package, and the form of its file."""

import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.bundled_network import FORMAT, bundled_bytes, is_bundled, write_bundled
from sg3flow.checkpoints.network_catalog import NETWORKS
from sg3flow.config import TrainConfig
from sg3flow.errors import CheckpointError, DataError
from sg3flow.files import sha256_file, write_json
from sg3flow.params_file import load_settings, read_params
from sg3flow.runs.bundle_network import MOST_BYTES, bundle

STARTER = NETWORKS["starter"].bundled


def saved(networks, path, cfg="stylegan3-t", c_dim=2):
    G, D = networks(cfg, c_dim)
    G_ema, _ = networks(cfg, c_dim)
    for parameter in G_ema.parameters():
        parameter.data.mul_(0.5)
    described = {"label_dim": c_dim, "class_names": ["a", "b"], "licence": "CC0"}
    save_snapshot(
        path, G=G, D=D, G_ema=G_ema, augment_p=0.0, training_set=described, progress={"nimg": 2000}
    )
    return G_ema, D


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
def test_what_is_read_is_what_was_written_up_to_rounding(networks, tmp_path, cfg):
    G_ema, D = saved(networks, tmp_path / "a.pkl", cfg)
    path = tmp_path / "a.safetensors"
    write_bundled(tmp_path / "a.pkl", path)
    loaded = load_networks(path)
    assert loaded.G is loaded.G_ema and loaded.progress == {"nimg": 2000}
    assert loaded.training_set["class_names"] == ["a", "b"]
    for network, expected in ((loaded.G_ema, G_ema), (loaded.D, D)):
        found = network.state_dict()
        assert list(found) == list(expected.state_dict())
        for name, tensor in expected.state_dict().items():
            assert found[name].dtype == torch.float32
            # Half a unit in the last place of float16, and of its least number.
            torch.testing.assert_close(found[name], tensor, rtol=2**-11, atol=2**-25)
            if tensor.ndim < 2 or not name.endswith((".weight", ".const")):
                assert torch.equal(found[name], tensor), name
    sizes = {tensor.dtype for tensor in load_file(path).values()}
    assert sizes == {torch.float16, torch.float32}


@pytest.mark.parametrize(("cfg", "c_dim"), [("stylegan3-r", 3), ("stylegan2", 0)])
@pytest.mark.parametrize("has_D", [True, False])
def test_an_export_is_exact_and_needs_nothing_but_safetensors(
    networks, tmp_path, cfg, c_dim, has_D
):
    G, D = networks(cfg, c_dim)
    path = tmp_path / "a.safetensors"
    described, progress = {"name": "cats", "label_dim": c_dim}, {"nimg": 7000}
    given = D if has_D else None
    content = bundled_bytes(G_ema=G, D=given, training_set=described, progress=progress)
    path.write_bytes(content)
    loaded = load_networks(path)
    assert loaded.training_set == described and loaded.progress == progress
    assert (loaded.D is None) is not has_D and loaded.G is loaded.G_ema
    expected = {f"G_ema.{name}": tensor for name, tensor in G.state_dict().items()}
    if has_D:
        expected |= {f"D.{name}": tensor for name, tensor in D.state_dict().items()}
        assert loaded.D.init_kwargs == D.init_kwargs
    assert loaded.G_ema.init_kwargs == G.init_kwargs
    stored = load_file(path)
    assert set(stored) == set(expected)
    assert all(torch.equal(stored[name], tensor) for name, tensor in expected.items())
    found = loaded.G_ema.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in G.state_dict().items())
    with safe_open(path, "pt") as opened:
        description = json.loads(opened.metadata()["sg3flow"])
    assert description["networks"]["G_ema"]["class_name"] == type(G).__name__
    again = bundled_bytes(G_ema=G, D=given, training_set=described, progress=progress)
    assert again == content and is_bundled(path) and is_bundled(STARTER)
    path.write_bytes(save({"x": torch.zeros(1)}, {"other": "1"}))
    assert not is_bundled(path) and not is_bundled(tmp_path)


def test_equal_snapshots_give_equal_bytes(networks, tmp_path):
    saved(networks, tmp_path / "a.pkl")
    for name in ("1", "2"):
        write_bundled(tmp_path / "a.pkl", tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_weight_beyond_float16_is_refused(networks, tmp_path):
    G, D = networks("stylegan3-t")
    G.mapping.fc0.weight.data[0, 0] = 1e6
    snapshot = tmp_path / "a.pkl"
    save_snapshot(snapshot, G=G, D=D, G_ema=G, augment_p=0.0, training_set={}, progress={})
    with pytest.raises(CheckpointError, match=r"G_ema\.mapping\.fc0\.weight has values that float"):
        write_bundled(snapshot, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def changed(path, change):
    """The file with a changed description and tensors."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    description = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["sg3flow"])
    tensors = load_file(path)
    change(description, tensors)
    save_file(tensors, path, {"sg3flow": json.dumps(description)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d, t: d.update(format="other"), "does not describe networks of sg3flow"),
        (lambda d, t: d.pop("format"), "does not describe networks of sg3flow"),
        (lambda d, t: d["networks"].pop("D"), "a tensor of no network: D."),
        (lambda d, t: d["networks"].pop("G_ema"), "must describe G_ema"),
        (lambda d, t: d.update(networks=[1]), "must describe G_ema"),
        (lambda d, t: d["networks"].update(D=3), "D must hold class_name"),
        (lambda d, t: d["networks"]["D"].update(class_name="os"), "unknown network 'os'"),
        (lambda d, t: d["networks"].update(D=d["networks"]["G_ema"]), "do not fit"),
        (lambda d, t: d["networks"]["D"]["init_kwargs"].update(c_dim=3), "do not fit"),
        (lambda d, t: d.update(training_set=None), "training_set must be a dict"),
        (lambda d, t: d.update(progress="x"), "progress must be a dict"),
        (lambda d, t: t.update(other=torch.zeros(1)), "a tensor of no network: other"),
        (lambda d, t: t.pop("D.b4.out.weight"), "missing: b4.out.weight"),
        (lambda d, t: t.update({"D.b4.fc.bias": torch.zeros(3)}), "of another shape"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(networks, tmp_path, change, words):
    saved(networks, tmp_path / "a.pkl")
    path = tmp_path / "a.safetensors"
    write_bundled(tmp_path / "a.pkl", path)
    changed(path, change)
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        load_networks(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 7, b"\xff" * 100, (2**62).to_bytes(8, "little") + b"{}", save({}), b"PK\x03\x04"],
)
def test_what_is_no_such_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        load_networks(path)


def test_the_starter_network_comes_with_its_record():
    record = json.loads((STARTER.parent / "record.json").read_text())
    assert record["sha256"] == sha256_file(STARTER)
    assert record["bytes"] == STARTER.stat().st_size <= MOST_BYTES
    assert record["snapshot"]["kimg"] > 0 and record["data"]["num_images"] > 0
    assert "Apache License" in (STARTER.parent / "LICENSE").read_text()
    recipe = STARTER.parent / "recipe.yaml"
    assert "train" in read_params(recipe)
    assert load_settings(TrainConfig, "train", recipe).cfg == record["settings"]["cfg"]
    for path in STARTER.parent.iterdir():
        assert not re.search(rb"/(home|root|tmp|work)/", path.read_bytes()), path


def test_the_starter_network_loads_and_is_conditional():
    loaded = load_networks("starter")
    assert loaded.G_ema.img_resolution == 64 and loaded.G_ema.c_dim == 3
    assert loaded.training_set["class_names"] == ["cat", "dog", "wild"]
    assert loaded.D.c_dim == 3 and loaded.progress["nimg"] > 0


@pytest.fixture
def run_folder(networks, tmp_path):
    """A run folder with a snapshot and the records that a training writes."""
    folder = tmp_path / "run"
    folder.mkdir()
    saved(networks, folder / "network-snapshot-000002.pkl")
    data = {"path": "/somewhere/set.zip", "name": "set", "digest": "ab", "num_images": 9}
    setups = [{"nimg": 0, "cpu": "one"}, {"nimg": 1999, "cpu": "two"}, {"nimg": 2000, "cpu": "3"}]
    provenance = {"format": "sg3flow-provenance-1", "data": data, "setups": setups, "uid": "u"}
    write_json(folder / "provenance.json", provenance)
    write_json(folder / "training_options.json", {"given": {"cfg": "stylegan3-t", "kimg": 9}})
    return folder


def test_a_bundle_is_made_from_a_run(run_folder, tmp_path):
    license_file = tmp_path / "LICENSE"
    license_file.write_text("as you like")
    dest = tmp_path / "package" / "starter"
    path = bundle(run_folder / "network-snapshot-000002.pkl", dest, license_file)
    assert load_networks(path).D is not None
    record = json.loads((dest / "record.json").read_text())
    assert record["snapshot"]["kimg"] == 2 and record["sha256"] == sha256_file(path)
    assert [setup["cpu"] for setup in record["setups"]] == ["one", "two"]
    assert record["data"] == {"name": "set", "digest": "ab", "num_images": 9}
    assert read_params(dest / "recipe.yaml") == {"train": {"cfg": "stylegan3-t", "kimg": 2}}
    assert (dest / "LICENSE").read_text() == "as you like"
    other = tmp_path / "recipe.yaml"
    other.write_text("fetch: {}\n")
    bundle(run_folder / "network-snapshot-000002.pkl", dest, license_file, other)
    assert (dest / "recipe.yaml").read_text() == "fetch: {}\n"


def test_a_snapshot_without_its_run_is_no_bundle(run_folder, tmp_path):
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(run_folder / "network-snapshot-000002.pkl", lone)
    with pytest.raises(DataError, match="no record of a training"):
        bundle(lone / "network-snapshot-000002.pkl", tmp_path / "dest", tmp_path / "LICENSE")
    assert FORMAT and not (tmp_path / "dest").exists()


def continued(run_folder, network, name="continued"):
    """A run folder of a training that started from a snapshot."""
    folder = run_folder.parent / name
    shutil.copytree(run_folder, folder)
    provenance = json.loads((folder / "provenance.json").read_text())
    write_json(folder / "provenance.json", provenance | {"uid": "v", "network": network})
    given = {"cfg": "stylegan3-t", "kimg": 9, "resume": "/somewhere/first.pkl"}
    write_json(folder / "training_options.json", {"given": given})
    return folder / "network-snapshot-000002.pkl"


def test_a_record_has_the_training_that_another_one_started_from(run_folder, tmp_path):
    first = run_folder / "network-snapshot-000002.pkl"
    second = continued(run_folder, {"source": str(first), "sha256": sha256_file(first)})
    (tmp_path / "LICENSE").write_text("as you like")
    bundle(second, tmp_path / "dest", tmp_path / "LICENSE", resumed_from=[first])
    text = (tmp_path / "dest/record.json").read_text()
    record = json.loads(text)
    assert record["uid"] == "v" and record["resumed_from"]["uid"] == "u"
    assert record["settings"]["resume"] == record["resumed_from"]["snapshot"]["name"]
    assert "somewhere" not in text and str(tmp_path) not in text


def test_a_record_has_a_chain_of_trainings(run_folder, tmp_path):
    snapshots = [run_folder / "network-snapshot-000002.pkl"]
    for name in ("second", "third"):
        network = {"source": "", "sha256": sha256_file(snapshots[-1])}
        snapshots.append(continued(run_folder, network, name))
    (tmp_path / "LICENSE").write_text("as you like")
    first, second, third = snapshots
    dest = tmp_path / "dest"
    bundle(third, dest, tmp_path / "LICENSE", resumed_from=[second, first])
    record = json.loads((dest / "record.json").read_text())
    assert record["resumed_from"]["resumed_from"]["uid"] == "u"
    with pytest.raises(DataError, match="--resumed-from"):
        bundle(third, dest, tmp_path / "LICENSE", resumed_from=[second])


@pytest.mark.parametrize("given", [None, "another"])
def test_the_training_that_another_one_started_from_must_be_named(run_folder, tmp_path, given):
    first = run_folder / "network-snapshot-000002.pkl"
    second = continued(run_folder, {"source": "first.pkl", "sha256": "ab" * 32})
    resumed_from = [first] if given else []
    words = "not from" if given else "--resumed-from"
    with pytest.raises(DataError, match=words):
        bundle(second, tmp_path / "dest", tmp_path / "LICENSE", resumed_from=resumed_from)
    assert not (tmp_path / "dest").exists()
