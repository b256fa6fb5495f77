"""A training that starts from the network that comes with the package."""

import dataclasses
import shutil

import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.network_catalog import NETWORKS
from sg3flow.errors import CheckpointError
from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import read_provenance, read_run
from sg3flow.training.job import Job, deciding_settings, fingerprint
from sg3flow.training.training_run import train

STARTER = NETWORKS["starter"].bundled
DATA = "d" * 64


def of_resume(resume):
    return fingerprint(deciding_settings({"resume": resume, "gamma": 1.0}), DATA)


def test_the_fingerprint_has_the_content_of_the_bundled_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = shutil.copy(STARTER, tmp_path / "other.safetensors")
    assert of_resume("starter") == of_resume(str(STARTER)) == of_resume(str(copy))
    assert of_resume("afhqv2-512-t") != of_resume("afhqv2-512-r")
    (tmp_path / "starter").write_bytes(b"another network")  # a file goes before a name
    assert of_resume("starter") != of_resume(str(STARTER))


@pytest.mark.medium
def test_resume_starter_begins_with_its_weights_and_records_it(
    tiny_config, write_packed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "final_nimg", property(lambda self: 4))  # one step
    packed = write_packed(tmp_path / "set.zip", resolution=64, num_images=8)
    config = dataclasses.replace(
        tiny_config, resume="starter", cond=True, cbase=2048, cmax=48, map_depth=2, aug="noaug"
    )
    out = train(config, packed, run_dir=tmp_path / "run")
    said = capsys.readouterr().out
    assert "starting from starter:" in said and "initialized" not in said
    starter = load_networks(STARTER)
    first = load_networks(out / "network-snapshot-000000.pkl")
    last = sorted(out.glob("network-snapshot-*.pkl"))[-1]
    assert last == out / "network-snapshot-000000.pkl"  # 4 images are 0 kimg: the last one counts
    assert first.progress["nimg"] == 4
    for name in ("G", "D"):
        begun = getattr(starter, name).state_dict()
        weights = [k for k, _ in getattr(starter, name).named_parameters()]
        change = max(
            float((tensor - begun[key]).abs().max())
            for key, tensor in getattr(first, name).state_dict().items()
            if key in weights
        )
        assert 0 < change < 0.02, name  # one step of Adam away from it, and not from random weights
    provenance, run = read_provenance(out), read_run(out)
    expected = {"source": "starter", "shortened": False, "sha256": sha256_file(STARTER)}
    assert provenance["network"] == expected
    assert run["params"]["resume"] == "starter" and "from-starter" in run["name"]


def test_another_architecture_gets_the_advice_of_any_network(
    tiny_config, write_packed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    packed = write_packed(tmp_path / "set.zip", resolution=16, num_images=8)
    with pytest.raises(CheckpointError, match="the checkpoint is 64x64.*this training is 16x16"):
        train(dataclasses.replace(tiny_config, resume="starter"), packed, run_dir=tmp_path / "run")
    assert torch.is_grad_enabled()
