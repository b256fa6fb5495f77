"""Names of runs."""

import dataclasses

import pytest

from sg3flow.config import TrainConfig
from sg3flow.params_file import load_settings
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
    base = "stylegan2-tiny-16px-batch4-gamma0.5"
    assert name_of(plain) == base
    changed = dataclasses.replace(
        plain, mirror=True, aug="noaug", glr=0.003, seed=3, kimg=7, resume="/a/b c/net.pkl"
    )
    wanted = f"{base}-mirror-noaug-from-net-glr0.003-seed3"
    assert name_of(changed) == wanted
    champion = dataclasses.replace(plain, resume="models:/cats@champion")
    assert name_of(champion) == f"{base}-from-cats_champion"  # no NAME@ALIAS
    # A training that is made longer, or shown elsewhere, keeps its name.
    longer = dataclasses.replace(changed, kimg=99, tick=2, workers=0, grid="2x2")
    assert name_of(longer) == wanted


def test_a_name_says_what_differs_from_the_recipe(project):
    recipe = load_settings(TrainConfig, "train", project / "recipes" / "mine.yaml")
    assert name_of(recipe) == "stylegan3-t-mine-16px-batch4-gamma1"
    changed = dataclasses.replace(recipe, gamma=2.0, glr=0.0, cbase=64)
    wanted = "stylegan3-t-mine-16px-batch4-gamma2-cbase64-glr0.0025"
    assert name_of(changed) == wanted
    (project / "recipes" / "mine.yaml").write_text("[")  # not readable: compared with the defaults
    assert name_of(changed) == "stylegan3-t-mine-16px-batch4-gamma2-cbase64"


def test_a_name_stays_short(project):
    config = TrainConfig(
        cfg="stylegan3-t", gpus=1, batch=4, gamma=1, cond=True, mirror=True, aug="fixed", p=0.1,
        cbase=64, cmax=8, glr=0.003, dlr=0.003, seed=1, fp32=True,
    )  # fmt: skip
    name = name_of(config)
    assert name.endswith("-cond-mirror-fixed-p0.1-cbase64-cmax8-and4more")
    plain = TrainConfig(cfg="stylegan2", gpus=1, batch=4, gamma=0.5, desc="d" * 5000)
    assert name_of(plain) == f"stylegan2-{'d' * 100}-16px-batch4-gamma0.5"
