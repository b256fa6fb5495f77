"""`sg3flow recipes`: the table, whose numbers agree with the settings; recipes of a project."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app
from sg3flow.cli.recipes import read_recipe
from sg3flow.config import TrainConfig
from sg3flow.params_file import load_settings

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ON_A_GPU = [path for path in RECIPES if "A100" in path.read_text()]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_says_what_it_is_and_needs(path):
    recipe = read_recipe(path)
    assert set(recipe.needs) == {"GPU memory", "time", "disk"}
    assert re.fullmatch("none|[0-9.]+ GB", recipe.needs["GPU memory"])
    assert 20 < len(recipe.about) < 100 and re.fullmatch("[0-9]+x[0-9]+", recipe.resolution)


def test_three_recipes_are_for_a_gpu():
    assert [path.stem for path in ON_A_GPU] == ["afhq-cat-256", "afhqv2-512", "own"]


@pytest.mark.parametrize("path", ON_A_GPU, ids=lambda path: path.stem)
def test_its_times_and_counts_follow_from_its_settings(path):
    comment = " ".join(
        line.lstrip("# ") for line in path.read_text().split("\nfetch:")[0].split("\n")
    )
    config = load_settings(TrainConfig, "train", path)
    speeds = re.search(r"\(([0-9.]+) and ([0-9.]+) s/kimg for StyleGAN3-T", comment)
    times = re.search("time: ([0-9.]+) days on an A100, ([0-9.]+) on a V100", comment)
    for speed, days in zip(speeds.groups(), times.groups(), strict=True):
        found = float(speed) * config.kimg / 86400
        assert f"{found:.0f}" == days or f"{found:.1f}" == days
    snapshots = config.kimg // (config.tick * config.snap) + 1
    assert f"{snapshots} snapshots of" in comment


def test_the_table_has_those_of_the_package_and_of_the_project(project):
    text = "# yaml-language-server: $schema=x.json\n# [red]My[/red] cats. More.\npack: {}\n"
    (project / "recipes" / "mine.yaml").write_text(text)
    result = invoke("recipes")
    assert result.exit_code == 0, result.output
    for recipe in map(read_recipe, RECIPES):
        words = " ".join(result.stdout.split(f"\n  {recipe.name} ")[1].split())
        needs = "; ".join(f"{name} {value}" for name, value in recipe.needs.items())
        assert words.startswith(f"{recipe.resolution} {recipe.about} {needs}")
    (line,) = [line for line in result.stdout.splitlines() if " mine " in line]
    assert line.split() == ["mine", "-", "[red]My[/red]", "cats"]


def test_a_recipe_of_the_project_comes_first(project):
    text = "# Other.\nfetch: {dataset: starter}\n"
    (project / "recipes" / "own.yaml").write_text(text)
    assert invoke("use", "own").exit_code == 0
    assert (project / "params.yaml").read_text() == text
    assert invoke("use", "afhqv2-512").exit_code == 0  # what is lost is in recipes/
    assert (project / "params.yaml").read_bytes() == (ROOT / "recipes/afhqv2-512.yaml").read_bytes()


def test_a_recipe_that_cannot_be_read_is_named(project):
    (project / "recipes" / "mine.yaml").write_text("a: [1\n")
    result = invoke("recipes")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "mine.yaml" in result.stderr


def test_outside_a_project_no_settings_are_written(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    result = invoke("use", "own")
    assert result.exit_code == 1 and "`sg3flow init DIR --recipe NAME`" in result.stderr
    assert list(tmp_path.iterdir()) == []
