"""Names of runs."""

import dataclasses

import pytest

from sg3flow.config import TrainConfig
from sg3flow.params_file import load_settings
from sg3flow.runs.run_names import stage_name, training_name, typed_name
from sg3flow.runs.set_names import FetchedSet, common_side, packed_name
from sg3flow.training.assembly import resolve
from sg3flow.training.job import run_name


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    recipe = "train: {cfg: stylegan3-t, desc: mine, gpus: 1, batch: 4, gamma: 1, glr: 0.004}\n"
    (tmp_path / "recipes" / "mine.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def name_of(config: TrainConfig) -> str:
    return run_name(dataclasses.asdict(resolve(config)), "tiny", 16)


def test_a_name_says_what_differs_from_the_defaults(project):
    plain = TrainConfig(cfg="stylegan2", gpus=1, batch=4, gamma=0.5)
    assert name_of(plain) == "gamma 0.5 · batch 4 · sg2-16 · tiny"
    changed = dataclasses.replace(plain, mirror=True, seed=3, kimg=7, resume="/a/b c/net.pkl")
    wanted = "gamma 0.5 · batch 4 · from net · mirror · seed 3 · sg2-16 · tiny"
    assert name_of(changed) == wanted
    champion = dataclasses.replace(plain, resume="models:/cats@champion")
    assert "from cats_champion" in name_of(champion)  # no NAME@ALIAS
    # A training that is made longer, or shown elsewhere, keeps its name.
    longer = dataclasses.replace(changed, kimg=99, tick=2, workers=0, grid="2x2")
    assert name_of(longer) == wanted


def test_a_name_says_what_differs_from_the_recipe(project):
    recipe = load_settings(TrainConfig, "train", project / "recipes" / "mine.yaml")
    assert name_of(recipe) == "t16 · mine"
    assert name_of(dataclasses.replace(recipe, gamma=0.4)) == "gamma 0.4 · t16 · mine"
    changed = dataclasses.replace(recipe, gamma=2.0, glr=0.0, cbase=64, aug="noaug")
    assert name_of(changed) == "gamma 2 · cbase 64 · glr 0.0025 · noaug · t16 · mine"
    (project / "recipes" / "mine.yaml").write_text("[")  # not readable: compared with the defaults
    assert name_of(recipe) == "gamma 1 · batch 4 · glr 0.004 · t16 · mine"


def test_the_name_of_an_experiment_comes_first(project, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "rusty-taps")
    recipe = load_settings(TrainConfig, "train", project / "recipes" / "mine.yaml")
    assert name_of(dataclasses.replace(recipe, gamma=2.0)) == "rusty-taps · gamma 2 · t16 · mine"


def test_a_name_stays_short(project):
    config = TrainConfig(
        cfg="stylegan3-t", gpus=1, batch=4, gamma=1, cond=True, mirror=True, aug="fixed", p=0.1,
        cbase=64, cmax=8, glr=0.003, dlr=0.003, seed=1, fp32=True,
    )  # fmt: skip
    name = name_of(config)
    assert name == "gamma 1 · batch 4 · cbase 64 · cmax 8 · glr 0.003 · +7 more · t16 · tiny"
    plain = TrainConfig(cfg="stylegan2", gpus=1, batch=4, gamma=0.5, desc="d" * 5000)
    assert name_of(plain) == f"gamma 0.5 · batch 4 · sg2-16 · {'d' * 31}…"


def test_the_set_in_a_name_has_no_resolution_twice():
    settings = dataclasses.asdict(resolve(TrainConfig(cfg="stylegan3-t", gpus=1, batch=4, gamma=1)))
    assert run_name(settings, "afhq-cat 256x256", 256).endswith(" · t256 · afhq-cat")
    assert run_name(settings, "256x256", 256).endswith(" · t256 · 256x256")


@pytest.mark.parametrize(
    ("dataset", "subset", "wanted"),
    [
        ("starter", "starter/train", "starter"),
        ("afhq", "afhq/train/cat", "afhq-cat"),
        ("afhqv2", "train", "afhqv2"),
        ("/data/my pictures/", "", "my pictures"),
        ("/data/birds.tar.gz", "", "birds"),
        ("https://example.org/sets/dogs.zip?raw=1", "dogs/poodles", "dogs-poodles"),
        ("", "", "packed"),
    ],
)
def test_a_set_is_called_after_its_images(dataset, subset, wanted):
    source = {"dataset": dataset} if dataset else {}
    assert packed_name("packed", source, subset, 32) == f"{wanted} 32x32"
    assert packed_name("mine-32x32", source, subset, 32) == "mine-32x32"
    assert FetchedSet("packed", source, subset).name == wanted


def test_the_side_of_the_images_of_a_set():
    assert common_side({"32x32 RGB": 81, "64x64 RGB": 1}) == 32
    assert common_side({}) == common_side(["?"]) == 0


def test_a_typed_name_needs_no_dots():
    name = training_name({"gamma": 0.4}, "stylegan3-t", 32, "Cats")
    assert name == "gamma 0.4 · t32 · Cats"
    assert typed_name(name) == typed_name("gamma 0.4 t32 cats")
    assert (
        stage_name("evaluate", "Cats") == "evaluate · Cats" and stage_name("fetch", "") == "fetch"
    )
