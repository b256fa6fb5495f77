"""The commands of a sweep."""

from pathlib import Path

import pytest

from sg3flow.cli.sweep import sweep_commands
from sg3flow.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "recipes"


def values(commands):
    return [line.rpartition("=")[2] for line in commands if "--queue" in line]


def test_the_advised_sweep_of_gamma():
    lines = sweep_commands(RECIPES / "afhqv2-512.yaml", "gamma", "0.25,0.5,1,2,4")
    assert values(lines) == ["2.05", "4.1", "8.2", "16.4", "32.8"]
    assert lines[1] == "dvc exp run --queue --name gamma-2.05 -S train.gamma=2.05"
    assert lines[-2] == "dvc exp run --run-all"
    assert lines[-1] == (
        "sg3flow compare gamma-8.2 gamma-2.05 gamma-4.1 gamma-16.4 gamma-32.8 "
        "--out reports/sweep-gamma.html"
    )


def test_a_whole_number_in_the_file_may_be_a_fraction_where_the_setting_is_one():
    assert values(sweep_commands(RECIPES / "afhq-cat-256.yaml", "gamma", "0.25,1")) == ["0.5", "2"]


def test_without_factor_1_the_first_is_what_others_are_compared_with():
    lines = sweep_commands(RECIPES / "starter-scratch.yaml", "kimg", "2,3")
    assert lines[-1].startswith("sg3flow compare kimg-4 kimg-6 ")


@pytest.mark.parametrize("asked", ["map-depth", "map_depth"])
@pytest.mark.parametrize("spelled", ["map-depth", "map_depth"])
def test_hyphens_and_underscores_are_one_and_the_file_keeps_its_spelling(tmp_path, asked, spelled):
    params = tmp_path / "params.yaml"
    params.write_text(f"train: {{cfg: stylegan3-t, gpus: 1, batch: 4, gamma: 1, {spelled}: 4}}\n")
    lines = sweep_commands(params, asked, "0.5,1")
    assert lines[0] == f"# {spelled} 4 of params.yaml times 0.5, 1"
    assert f"--name {spelled}-2 -S train.{spelled}=2" in lines[1]


@pytest.mark.parametrize(
    ("setting", "factors", "words"),
    [
        ("gama", "1,2", "did you mean 'gamma'"),
        ("cfg", "1,2", "train.cfg is not a number"),
        ("kimg", "0.3,1", "train.kimg is a whole number; 2 times 0.3 is not"),
        ("seed", "1,2", "train.seed is 0, and so is every multiple"),
        ("gamma", "1", "factors must be 2 to 20 positive numbers"),
        ("gamma", "1,x", "factors must be numbers such as"),
        ("gamma", "1,-2", "positive numbers"),
        ("kimg", "1,1e308", "train.kimg is 2; .* times that is too large"),
        ("gamma", "1,1e7", "train.gamma must be at most 1000000"),
        ("gamma", "1,1.00000001", "give the same value twice"),
    ],
)
def test_what_cannot_be_swept_is_one_line(setting, factors, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        sweep_commands(RECIPES / "starter-scratch.yaml", setting, factors)
