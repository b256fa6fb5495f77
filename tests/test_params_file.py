"""Settings that are changed by a command."""

from pathlib import Path

import pytest

from sg3flow.config import EvaluateConfig, FetchConfig, PackConfig, TrainConfig
from sg3flow.errors import ConfigError
from sg3flow.params_file import load_settings, set_values

PARAMS = """\
# what this is
train:
  cfg: stylegan3-t
  gpus: 1
  batch: 4 # small
  gamma: 0.2
evaluate:
  metrics: [fd_random500_full]
"""


@pytest.fixture
def params(tmp_path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def test_values_change_and_comments_stay(params):
    said = set_values(params, ["train.gamma=2 train.mirror=true", "render.trunc=0.7"])
    assert said == "params.yaml: train.gamma=2, train.mirror=true, render.trunc=0.7"
    config = load_settings(TrainConfig, "train", params)
    assert config.gamma == 2.0 and config.mirror
    text = params.read_text()
    assert text.startswith("# what this is\n") and "batch: 4 # small\n" in text
    assert "render:\n  trunc: 0.7\n" in text


def test_a_list_and_a_text_may_hold_spaces(params):
    given = 'evaluate.metrics=[fid50k_full, eqt1k_int] fetch.dataset="/data/my pictures"'
    set_values(params, [given, "pack.subset=a b  train.map-depth=4"])
    assert load_settings(EvaluateConfig, "evaluate", params).metrics == ("fid50k_full", "eqt1k_int")
    assert load_settings(FetchConfig, "fetch", params).dataset == "/data/my pictures"
    assert load_settings(PackConfig, "pack", params).subset == "a b"
    assert load_settings(TrainConfig, "train", params).map_depth == 4


def test_a_setting_keeps_the_spelling_of_the_file(params):
    params.write_text(PARAMS.replace("  gamma", "  map-depth: 2\n  gamma"))
    set_values(params, ["train.map_depth=4"])
    text = params.read_text()
    assert "map-depth: 4\n" in text and "map_depth" not in text


def test_a_former_name_sets_the_same_setting(params):
    set_values(params, ["train.max_repairs=5"])
    assert "max_nonfinite_updates: 5\n" in params.read_text()
    params.write_text(PARAMS.replace("  gamma", "  max_repairs: 1\n  gamma"))
    set_values(params, ["train.max_nonfinite_updates=7"])
    text = params.read_text()
    assert "max_repairs: 7\n" in text and "max_nonfinite_updates" not in text
    assert load_settings(TrainConfig, "train", params).max_nonfinite_updates == 7


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.gama=2", "did you mean 'gamma'"),
        ("trian.gamma=2", "did you mean 'train'"),
        ("train.gamma=big", "train.gamma must be a number"),
        ("train.gamma=-1", "at least 0"),
        ("gamma=2", "must be SECTION.NAME=VALUE"),
        ("train.gamma", "must be SECTION.NAME=VALUE"),
        ("train.desc=[", "is not valid YAML"),
        (" ", "nothing to set"),
    ],
)
def test_a_wrong_one_changes_nothing(params, assignment, message):
    with pytest.raises(ConfigError, match=message):
        set_values(params, ["train.batch=8", assignment] if assignment.strip() else [assignment])
    assert params.read_text() == PARAMS
