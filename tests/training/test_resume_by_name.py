"""A training that starts from the network that comes with the package."""

import dataclasses
import shutil

import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.network_catalog import NETWORKS
from sg3flow.errors import CheckpointError, TrainingInterruptedError
from sg3flow.files import sha256_file
from sg3flow.runs.run_folder import read_provenance, read_run
from sg3flow.training.job import deciding_settings, fingerprint
from sg3flow.training.loop import TrainingLoop
from sg3flow.training.training_run import train
from sg3flow.training.work_folder import StateFolder

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


@pytest.fixture
def one_step(monkeypatch):
    """Trainings stop after one step, as after Ctrl-C."""
    run = TrainingLoop.run
    monkeypatch.setattr(
        TrainingLoop,
        "run",
        lambda loop, _, advance: run(loop, lambda: loop.clock.nimg > 0, advance),
    )


@pytest.mark.medium
def test_resume_starter_begins_with_its_weights_and_records_it(
    tiny_config, write_packed, tmp_path, monkeypatch, capsys, one_step, own_state
):
    monkeypatch.chdir(tmp_path)
    packed = write_packed(tmp_path / "set.zip", resolution=64, num_images=8)
    config = dataclasses.replace(
        tiny_config, resume="starter", cond=True, cbase=2048, cmax=48, map_depth=2, aug="noaug"
    )
    out = tmp_path / "run"
    with pytest.raises(TrainingInterruptedError, match="stopped at 4 of 1000 images"):
        train(config, packed, run_dir=out)
    said = capsys.readouterr().out
    assert "starting from starter:" in said and "initialized" not in said
    starter, first = load_networks(STARTER), load_networks(out / "network-snapshot-000000.pkl")
    for name in ("G", "D", "G_ema"):
        begun, expected = (getattr(each, name).state_dict() for each in (first, starter))
        assert all(torch.equal(begun[key], tensor) for key, tensor in expected.items()), name
    provenance, run = read_provenance(out), read_run(out)
    expected = {"source": "starter", "shortened": False, "sha256": sha256_file(STARTER)}
    assert provenance["network"] == expected
    assert run["params"]["resume"] == "starter" and "from starter" in run["name"]
    (states,) = own_state.glob("*/states")
    trained = StateFolder(states).load()
    assert trained["nimg"] == 4
    weight = "synthesis.L0_36_48.weight"
    change = (trained["networks"]["G"][weight] - starter.G.state_dict()[weight]).abs().max()
    assert 0 < change < 0.01  # a step of Adam away from the starter, not from random weights


def test_another_architecture_gets_the_advice_of_any_network(
    tiny_config, write_packed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    packed = write_packed(tmp_path / "set.zip", resolution=16, num_images=8)
    words = r"is stylegan3-t, 64 px, 3 classes.*this training is stylegan3-t, 16 px.*\(starter\)"
    with pytest.raises(CheckpointError, match=words):
        train(dataclasses.replace(tiny_config, resume="starter"), packed, run_dir=tmp_path / "run")
