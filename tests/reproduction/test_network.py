"""Finding the network that a run started from."""

from pathlib import Path

import pytest

from sg3flow.checkpoints.network_catalog import NETWORKS
from sg3flow.errors import CheckpointError, DataError
from sg3flow.files import sha256_file
from sg3flow.runs.provenance import network_digest, network_info
from sg3flow.runs.reproduction_inputs import InitialNetwork, find_network
from sg3flow.runs.worktree import Record, Worktree


def record_of(source: str, digest: str = "") -> Record:
    provenance = {"network": network_info(source, digest), "folder": "project"}
    return Record(Path(), {"params": {"resume": source}}, provenance, {}, "a run")


@pytest.fixture
def network(tmp_path) -> Path:
    path = tmp_path / "project" / "nets" / "a.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"network")
    return path


def test_a_file_is_looked_for_where_the_run_had_it(tmp_path, network):
    record = record_of("nets/a.pkl", sha256_file(network))
    assert find_network(record, tmp_path, "") == InitialNetwork(str(network), str(network))
    moved = network.rename(tmp_path / "b.pkl")
    with pytest.raises(CheckpointError, match=r"no file .*nets/a\.pkl"):
        find_network(record, tmp_path, "")
    assert find_network(record, tmp_path, str(moved)) == InitialNetwork(str(moved), str(moved))
    moved.write_bytes(b"another")
    with pytest.raises(DataError, match="is not the network that the run started from"):
        find_network(record, tmp_path, str(moved))


def test_of_an_address_the_fingerprint_holds_the_text(tmp_path, network):
    source = "models:/cats@champion"
    found = find_network(record_of(source, sha256_file(network)), tmp_path, str(network))
    assert found == InitialNetwork(source, str(network))
    assert found.kept_in(tmp_path) == str(network)


def test_a_model_of_the_registry_is_copied_into_the_worktree(tmp_path):
    model, place = tmp_path / "downloaded", tmp_path / "place"
    (model / "artifacts").mkdir(parents=True)
    weights = model / "artifacts" / "generator.safetensors"
    weights.write_bytes(b"weights")
    (model / "MLmodel").write_text("time: now\n")
    assert network_digest(model) == sha256_file(weights)
    kept = Path(InitialNetwork("models:/cats/1", str(model)).kept_in(place))
    assert kept == place / "network" and network_digest(kept) == sha256_file(weights)


def test_a_name_is_resolved_unless_the_run_had_a_file_of_that_name(tmp_path, monkeypatch):
    starter = NETWORKS["starter"].bundled
    record = record_of("starter", sha256_file(starter))
    monkeypatch.chdir(tmp_path)
    # Its content is in the fingerprint, as that of a file.
    assert find_network(record, tmp_path, "") == InitialNetwork(str(starter), str(starter))
    with pytest.raises(DataError, match="is not the network that the run started from"):
        find_network(record_of("starter", "0" * 64), tmp_path, "")
    own = tmp_path / "project" / "starter"
    own.parent.mkdir()
    own.write_bytes(b"network")
    found = find_network(record_of("starter", sha256_file(own)), tmp_path, "")
    assert found == InitialNetwork(str(own), str(own))


def test_a_network_of_the_package_is_taken_from_the_commit_of_the_run(tmp_path, monkeypatch):
    """The one of today may be another."""
    monkeypatch.chdir(tmp_path)
    worktree = Worktree(tmp_path / "place", tmp_path / "place" / "tree")
    then = worktree.project / "src/sg3flow/checkpoints/starter/network.safetensors"
    then.parent.mkdir(parents=True)
    then.write_bytes(b"the network of then")
    record = record_of("starter", sha256_file(then))
    assert find_network(record, tmp_path, "", worktree) == InitialNetwork(str(then), str(then))
    today = NETWORKS["starter"].bundled
    found = find_network(record_of("starter", sha256_file(today)), tmp_path, "", worktree)
    assert found == InitialNetwork(str(today), str(today))
    with pytest.raises(DataError, match="is not the network that the run started from"):
        find_network(record_of("starter", "0" * 64), tmp_path, "", worktree)
    then.unlink()
    with pytest.raises(DataError, match="is not the network that the run started from"):
        find_network(record, tmp_path, "", worktree)


def test_of_a_public_name_the_fingerprint_holds_the_text(tmp_path, network):
    record = record_of("afhqv2-512-t", sha256_file(network))
    assert find_network(record, tmp_path, str(network)) == InitialNetwork(
        "afhqv2-512-t", str(network)
    )


def test_a_run_that_started_from_nothing(tmp_path, network):
    assert find_network(record_of(""), tmp_path, "") == InitialNetwork("", "")
    assert InitialNetwork("", "").kept_in(tmp_path) == ""
    with pytest.raises(DataError, match="started from no network; leave out --resume"):
        find_network(record_of(""), tmp_path, str(network))
