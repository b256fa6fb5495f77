"""Settings that are changed by a command."""

from pathlib import Path

import pytest

from sg3flow.config import EvaluateConfig, FetchConfig, PackConfig, RenderConfig, TrainConfig
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


def test_no_other_line_changes(params):
    recipe = (Path(__file__).parents[1] / "recipes/afhqv2-512.yaml").read_bytes()
    for mark in (b"", b"\xef\xbb\xbf"):
        for end in (b"\n", b"\r\n"):
            text = mark + recipe.replace(b"\n", end)
            params.write_bytes(text.rstrip())  # no newline at the end
            set_values(params, ["train.gamma=1e1", "train.glr=0.002 render.seeds=0-3"])
            wanted = text.replace(b"gamma: 8.2", b"gamma: 1e1")
            wanted = wanted.replace(b"workers: 3", b"workers: 3" + end + b"  glr: 0.002")
            wanted = wanted.replace(b"render: {}", b"render: {seeds: 0-3}")
            assert params.read_bytes() == wanted.rstrip()
            config = load_settings(TrainConfig, "train", params)
            assert (config.gamma, config.glr, config.workers) == (10, 0.002, 3)


def test_a_number_or_date_may_be_a_text(params):
    set_values(params, ["render.seeds=5", "train.desc=2026-11-30 render.sweep_truncs=0.50"])
    config = load_settings(RenderConfig, "render", params)
    assert (config.seeds, config.sweep_truncs) == ("5", "0.50")
    assert load_settings(TrainConfig, "train", params).desc == "2026-11-30"
    assert 'seeds: "5"' in params.read_text()
    params.write_text("render: {seeds: 5, sweep_seeds: 7, sweep_truncs: 0.5, video_seeds: 0}\n")
    config = load_settings(RenderConfig, "render", params)
    assert (config.seeds, config.sweep_seeds, config.video_seeds) == ("5", "7", "0")
    assert config.sweep_truncs == "0.5"


def test_values_of_an_anchor_stay_where_they_are_repeated(params):
    shared = "usual: &usual\n  kimg: 3\n"
    params.write_text(PARAMS.replace("  gamma", "  <<: *usual\n  gamma") + shared)
    with pytest.raises(ConfigError, match="not valid YAML: found undefined alias 'usual'"):
        set_values(params, ["train.kimg=2"])
    params.write_text(shared + PARAMS.replace("  gamma", "  <<: *usual\n  gamma"))
    set_values(params, ["train.kimg=2"])
    assert params.read_text().startswith(shared)
    assert load_settings(TrainConfig, "train", params).kimg == 2
    params.write_text("evaluate: &all\n  seed: 0\nfetch: *all\n")
    with pytest.raises(ConfigError, match=r"evaluate\.seed cannot be changed alone"):
        set_values(params, ["evaluate.seed=4"])


def test_what_is_not_set_or_spans_lines_can_be_set(params):
    params.write_text("# one\nrender:\n  seeds: # two\n  video_seeds: >-\n    0-3\nfetch:\n")
    set_values(params, ["render.seeds=2", "render.video_seeds=1", "fetch.dataset=afhq"])
    config = load_settings(RenderConfig, "render", params)
    assert (config.seeds, config.video_seeds) == ("2", "1")
    assert load_settings(FetchConfig, "fetch", params).dataset == "afhq"
    assert params.read_text().startswith("# one\n")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        pytest.param("train.kimg=" + "9" * 5000, "of 5000 digits.*5011 characters", id="long"),
        ("train.kimg=1000000000000", "train.kimg must be at most 1000000, not 1000000000000"),
        ("train.resume=null", "train.resume must be a text, not null"),
        ("train.desc=2026-99-01", "month must be in 1..12.*put a text in quotes"),
        pytest.param("x" * 5000 + ".y=1", "unknown section '.{10,100}'; the sections", id="x"),
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
