"""The sg3flow command."""

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sg3flow.cli.commands import app

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "recipes").mkdir()
    for name in ("starter", "afhq-cat-256"):
        text = (ROOT / "recipes" / f"{name}.yaml").read_text()
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    (tmp_path / "params.yaml").write_text((ROOT / "recipes/starter.yaml").read_text())
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, arguments)


def test_use_copies_a_recipe(project):
    result = invoke("use", "afhq-cat-256")
    assert result.exit_code == 0
    wanted = (project / "recipes/afhq-cat-256.yaml").read_bytes()
    assert (project / "params.yaml").read_bytes() == wanted


def test_use_names_the_nearest_recipe(project):
    result = invoke("use", "afhq-cat-265")
    assert result.exit_code == 1
    assert "did you mean 'afhq-cat-256'" in result.stderr


def test_use_never_loses_settings_made_by_hand(project):
    params = project / "params.yaml"
    params.write_text(params.read_text() + "# mine\n")
    result = invoke("use", "afhq-cat-256")
    assert result.exit_code == 1 and "uncommitted settings" in result.stderr
    assert "# mine" in params.read_text()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "params.yaml"], check=True)
    subprocess.run([*git, "commit", "-qm", "params"], check=True)
    assert invoke("use", "afhq-cat-256").exit_code == 0
    assert invoke("use", "starter", "--force").exit_code == 0


def test_summary_says_what_has_not_run_yet(project):
    result = invoke("summary")
    assert result.exit_code == 0
    assert result.stdout.count("not run yet") == 7
    assert "models:/sg3flow-starter@champion" in result.stdout


def test_sync_without_runs_is_an_error(project):
    result = invoke("sync", str(project))
    assert result.exit_code == 1 and "no run folder" in result.stderr
