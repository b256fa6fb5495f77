"""Settings that are changed by a command."""

from pathlib import Path

import pytest

from sg3flow.config import TrainConfig, load_settings
from sg3flow.errors import ConfigError
from sg3flow.settings_file import set_values

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


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.gama=2", "did you mean 'gamma'"),
        ("trian.gamma=2", "did you mean 'train'"),
        ("train.gamma=big", "train.gamma must be a number"),
        ("train.gamma=-1", "at least 0"),
        ("gamma=2", "must be SECTION.NAME=VALUE"),
        ("train.gamma", "must be SECTION.NAME=VALUE"),
        ("train.desc=[", "is no value"),
        (" ", "nothing to set"),
    ],
)
def test_a_wrong_one_changes_nothing(params, assignment, message):
    with pytest.raises(ConfigError, match=message):
        set_values(params, ["train.batch=8", assignment] if assignment.strip() else [assignment])
    assert params.read_text() == PARAMS
