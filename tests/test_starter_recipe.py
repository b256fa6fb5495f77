"""The recipe of `make demo`: it starts from the network of this package, which it must fit."""

import json
from pathlib import Path

import pytest
import torch

from sg3flow.checkpoints import load_networks
from sg3flow.checkpoints.network_catalog import NETWORKS
from sg3flow.config import FetchConfig, PackConfig, TrainConfig, ValidateConfig
from sg3flow.data.starter.drawing import CLASSES
from sg3flow.files import sha256_file
from sg3flow.params_file import load_settings, read_params
from sg3flow.runs.code_state import FREE_SETTINGS, write_digests
from sg3flow.training.assembly import build, resolve
from sg3flow.training.transfer import transfer

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
STARTER = NETWORKS["starter"].bundled
RECORD = json.loads((STARTER.parent / "record.json").read_text())


def section(config_type, name, recipe="starter"):
    return load_settings(config_type, name, RECIPES / f"{recipe}.yaml")


def test_it_starts_from_the_whole_network_of_the_package():
    config = resolve(section(TrainConfig, "train"))
    packing = section(PackConfig, "pack")
    assert config.resume == "starter" and not config.resume_partial and not config.resume_arch
    assert config.cond and packing.labels == "folders"
    networks = load_networks(config.resume)
    assert networks.training_set["class_names"] == list(CLASSES)
    side = int(packing.resolution.partition("x")[0])
    cpu = torch.device("cpu")
    parts = build(config, resolution=side, channels=3, c_dim=len(CLASSES), device=cpu)
    told = transfer(parts, networks, config.resume, config.resume_partial)  # fails if it is another
    assert "initialized" not in told
    found = parts.G_ema.state_dict()
    for name, tensor in networks.G_ema.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_its_images_are_new_to_the_network_and_drawn_alike():
    ours, theirs = (section(FetchConfig, "fetch", each) for each in ("starter", "starter-network"))
    assert ours.dataset == theirs.dataset and ours.seed != theirs.seed
    assert ours.resolution == theirs.resolution


def test_it_trains_as_the_network_was_trained_with_smaller_steps():
    ours, theirs = section(TrainConfig, "train"), RECORD["settings"]
    same = ("cfg", "batch", "gamma", "cond", "mirror", "aug", "cbase", "cmax", "map_depth")
    for name in (*same, "loss", "class_batches"):
        assert getattr(ours, name) == theirs[name], name
    assert ours.glr < theirs["glr"] and ours.dlr < theirs["dlr"]


def test_the_recipe_of_the_network_has_the_settings_of_its_record():
    ours, theirs = section(TrainConfig, "train", "starter-network"), RECORD["settings"]
    for name, value in theirs.items():
        found = getattr(ours, name)
        # It starts from random weights, the last training of the network from an earlier snapshot.
        if name not in FREE_SETTINGS | {"resume"}:
            assert found == (tuple(value) if isinstance(value, list) else value), name
    assert ours.kimg >= RECORD["snapshot"]["kimg"]
    assert RECORD["snapshot"]["kimg"] % (ours.tick * ours.snap) == 0  # it makes that snapshot


def test_the_recipe_beside_the_network_is_that_of_the_project():
    beside, ours = (
        read_params(path)
        for path in (STARTER.parent / "recipe.yaml", RECIPES / "starter-network.yaml")
    )
    for name in ("fetch", "pack", "train"):
        free = FREE_SETTINGS if name == "train" else ()
        first, second = (
            {key: value for key, value in each[name].items() if key not in free}
            for each in (beside, ours)
        )
        assert first == second, name


def test_the_recipe_of_the_network_expects_the_images_of_its_record():
    checks, counts = section(ValidateConfig, "validate", "starter-network"), RECORD["data"]
    assert checks.min_images <= counts["num_images"]
    assert checks.min_class_images <= min(counts["class_counts"].values())
    assert checks.classes == len(counts["class_counts"]) == len(CLASSES)
    packing = section(PackConfig, "pack", "starter-network")
    assert packing.resolution == "{0}x{0}".format(counts["resolution"])


def test_from_scratch_nothing_is_taken_over():
    assert section(TrainConfig, "train", "starter-scratch").resume == ""
    assert section(TrainConfig, "train", "starter-network").resume == ""


@pytest.mark.parametrize(
    ("training", "depends"),
    [
        ("{resume: starter}", True),
        ("{resume: ''}", False),
        ("{resume: afhqv2-512-t}", False),
        ("{resume: ./starter}", False),
        ("{resume: [1]}", False),
        ("{}", False),
        ("[1]", False),
    ],
)
def test_a_training_depends_on_the_network_that_it_starts_from(
    tmp_path, monkeypatch, training, depends
):
    monkeypatch.chdir(tmp_path)
    write_digests(tmp_path / "plain", tmp_path)
    Path("params.yaml").write_text(f"train: {training}\n")
    write_digests(tmp_path / "code", tmp_path)
    plain, found = ((tmp_path / each).glob("*.txt") for each in ("plain", "code"))
    differing = {
        path.name
        for path in found
        if path.read_text() != (tmp_path / "plain" / path.name).read_text()
    }
    assert len(list(plain)) > 7 and differing == ({"train.txt"} if depends else set())
    line = f"{sha256_file(STARTER)}  checkpoints/starter/network.safetensors\n"
    assert (line in Path("code/train.txt").read_text()) is depends


def test_a_file_goes_before_the_name_of_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {resume: starter}\n")
    Path("starter").write_bytes(b"another network")
    write_digests(tmp_path / "code", tmp_path)
    assert "network.safetensors" not in Path("code/train.txt").read_text()
