"""Saved states of other code, such as version 0.1: found, named in one sentence, never resumed."""

import dataclasses
import json

import pytest

from sg3flow.runs.code_state import given_values
from sg3flow.runs.run_folder import describe_run
from sg3flow.training.initialize import other_code_note
from sg3flow.training.job import deciding_settings, numerics_digest
from sg3flow.training.training_run import train
from sg3flow.training.work_folder import open_run_folder

OLD, NEW = "0123456789ab", "ba9876543210"


@pytest.fixture
def old_state(tmp_path, tiny_config):
    """The state folder of a training by version 0.1, at 4000 images."""
    folder = open_run_folder(tmp_path, OLD, 10_000)
    folder.states.save({"nimg": 4000})
    params = json.loads(json.dumps(dataclasses.asdict(tiny_config)))
    training_set = {"name": "tiny", "digest": "data"}
    run = {"fingerprint": OLD, "name": "x", "params": params, "training_set": training_set}
    describe_run(folder.work, run)
    write_provenance(folder.work, "0.1.0", "other")
    (folder.work / "network-snapshot-000004.pkl").write_bytes(b"")
    folder.close()
    return tmp_path


def write_provenance(work, version, numerics):
    content = {"format": "sg3flow-provenance-1", "code": {"version": version}}
    (work / "provenance.json").write_text(json.dumps(content | {"numerics": numerics}))


def note(root, config, data="data", key=NEW):
    return other_code_note(root, deciding_settings(given_values(config)), data, key)


def test_a_state_with_equal_settings_and_data_is_named_in_one_sentence(old_state, tiny_config):
    said = note(old_state, tiny_config)
    base = old_state / OLD
    assert said.startswith(f"note: {base} holds this training at 4000 images")
    assert "(sg3flow 0.1.0)" in said and "\n" not in said
    assert said.endswith(
        f"--resume {base / 'run'}/network-snapshot-000004.pkl takes over its networks"
    )
    # The length of a training and where it runs do not make it another one.
    assert note(old_state, dataclasses.replace(tiny_config, kimg=99, tick=2, workers=3)) == said


def test_another_training_is_not_named(old_state, tiny_config):
    assert note(old_state, dataclasses.replace(tiny_config, gamma=0.2)) == ""
    assert note(old_state, tiny_config, data="other data") == ""
    assert note(old_state, tiny_config, key=OLD) == ""


def test_equal_code_with_another_fingerprint_is_another_training(old_state, tiny_config):
    write_provenance(old_state / OLD / "run", "0.1.0", numerics_digest(False))
    assert note(old_state, tiny_config) == ""


def test_a_folder_without_a_state_is_not_named(old_state, tiny_config):
    for path in (old_state / OLD / "states").iterdir():
        path.unlink()
    assert note(old_state, tiny_config) == ""


@pytest.mark.medium
def test_a_training_prints_the_note_and_starts_from_zero(
    cheap_config, tiny_set, write_packed, tmp_path, own_state, capsys
):
    train(cheap_config, tiny_set, run_dir=tmp_path / "first")
    (made,) = [path for path in own_state.iterdir() if (path / "run").is_dir()]
    old = made.rename(own_state / OLD)
    write_provenance(old / "run", "0.1.0", "other")
    capsys.readouterr()

    train(cheap_config, tiny_set, run_dir=tmp_path / "second")
    lines = capsys.readouterr().out.splitlines()
    (said,) = [line for line in lines if line.startswith("note:")]
    assert f"{old} holds this training at 1000 images" in said
    assert not any(line.startswith("resuming") for line in lines)
    assert (old / "run" / "network-snapshot-000001.pkl").exists()

    other_set = write_packed(tmp_path / "other.zip", num_images=20)
    train(dataclasses.replace(cheap_config, gamma=0.2), tiny_set, run_dir=tmp_path / "gamma")
    train(cheap_config, other_set, run_dir=tmp_path / "data")
    assert "note:" not in capsys.readouterr().out
