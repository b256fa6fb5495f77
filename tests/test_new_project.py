"""`sg3flow init`: what it writes, what it refuses, and that it leaves nothing half-made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from sg3flow import __version__
from sg3flow.cli import new_project
from sg3flow.cli.commands import app
from sg3flow.cli.new_project import project_pipeline
from sg3flow.cli.project_template import template_files
from sg3flow.errors import ConfigError

ROOT = Path(__file__).parents[1]
WRITTEN = {
    *(".dvc", ".dvcignore", ".gitignore", "MLproject", "dvc.yaml", "params.schema.json"),
    *("params.yaml", "profiles", "python_env.yaml", "stages"),
}


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch) -> Path:
    """A folder outside every git repository, whose user has no name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return tmp_path


def init(*arguments):
    return CliRunner().invoke(app, ["init", *arguments])


def refused(*arguments) -> str:
    """The error, which is one line."""
    result = init(*arguments)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    return result.stderr


def git(*arguments) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_project_has_the_files_of_this_repository():
    result = init("my faces", "--recipe", "own")
    assert result.exit_code == 0, result.output
    assert "cd 'my faces'" in result.stdout and "dvc repro" in result.stdout
    project = Path("my faces")
    assert {path.name for path in project.iterdir()} == {*WRITTEN, ".git"}
    files = content(project)
    for name in ("MLproject", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/plots/page.html"):
        assert files[name] == (ROOT / name).read_bytes()
    scripts = {f"stages/{path.name}": path.read_bytes() for path in (ROOT / "stages").glob("*.py")}
    assert {name: files[name] for name in files if name.startswith("stages/")} == scripts
    assert files["params.yaml"] == (ROOT / "recipes/own.yaml").read_bytes()
    assert f"- sg3flow=={__version__}\n".encode() in files["python_env.yaml"]
    assert git("-C", str(project), "status", "--porcelain").startswith("??")  # no commit


def test_its_pipeline_is_that_of_this_repository_without_sources():
    assert init("faces").exit_code == 0
    text = Path("faces/dvc.yaml").read_text()
    assert "- src/" not in text
    made, own = (YAML(typ="safe").load(each) for each in (text, (ROOT / "dvc.yaml").read_text()))
    assert made["stages"]["code"].pop("always_changed") is True
    assert "deps" not in made["stages"]["code"] and own["stages"]["code"].pop("deps")
    assert made == own


def test_an_unexpected_pipeline_is_an_error():
    with pytest.raises(ConfigError, match="stage code of the packaged dvc"):
        project_pipeline("stages:\n  code:\n    cmd: x\n")


def test_all_scripts_and_recipes_are_carried():
    carried = set(map(str, template_files(ROOT)))
    for folder, kind in (("stages", "*.py"), ("recipes", "*.yaml")):
        assert {f"{folder}/{path.name}" for path in (ROOT / folder).glob(kind)} <= carried


def test_a_list_of_files_that_is_out_of_date_fails_the_build(tmp_path):
    with pytest.raises(FileNotFoundError, match="of which projects are made"):
        template_files(tmp_path)


def test_files_that_are_there_stay_and_rules_are_added(somewhere):
    project = somewhere / "repository" / "faces"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc" / "config").write_text("[core]\n    remote = mine\n")
    (project / ".gitignore").write_text("/data/\n*.tmp")  # the last line is not complete
    (project / "README.md").write_text("mine\n")
    git("init", "-q", str(project.parent))
    result = init(str(project))
    assert result.exit_code == 0, result.output
    assert f"in the git repository {project.parent}" in result.stdout
    assert {path.name for path in project.iterdir()} == {*WRITTEN, "README.md"}  # no other .git
    rules = (project / ".gitignore").read_text().splitlines()
    assert rules[:3] == ["/data/", "*.tmp", "# sg3flow"]
    assert rules.count("/data/") == 1 and "/runs/" in rules
    assert content(project / ".dvc") == {"config": b"[core]\n    remote = mine\n"}


def test_nothing_is_overwritten(somewhere):
    project = somewhere / "faces"
    (project / "stages").mkdir(parents=True)
    (project / "dvc.yaml").write_text("mine\n")
    (project / "params.yaml").symlink_to("nowhere")
    words = refused("faces")
    assert "faces already has dvc.yaml, params.yaml, stages" in words
    assert {path.name for path in project.iterdir()} == {"dvc.yaml", "params.yaml", "stages"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "DIR is empty"),
        (("file",), "file is not a folder"),
        (("file/below",), "file is not a folder"),
        (("faces", "--recipe", "afhq-cat-265"), "did you mean 'afhq-cat-256'"),
        (("faces", "--recipe", "x" * 5000), "no recipe 'xxx"),
        (("faces", "--recipe", "../../params"), "no recipe '../../params'"),
    ],
)
def test_what_cannot_be_made_is_one_line(somewhere, arguments, words):
    (somewhere / "file").write_text("")
    assert words in refused(*arguments)
    assert {path.name for path in somewhere.iterdir()} <= {"file", "home"}


def test_a_second_init_tells_how_to_take_another_recipe(somewhere):
    assert init("faces").exit_code == 0
    words = refused("faces", "--recipe", "own")
    assert "faces already has" in words and "`sg3flow use NAME`" in words


def test_errors_name_the_folder_and_not_a_temporary_one(somewhere, monkeypatch):
    (somewhere / "link").symlink_to("nowhere")
    assert refused("link") == "error: Not a directory: link\n"
    (somewhere / "mine").mkdir()
    monkeypatch.setattr(new_project.os, "access", lambda path, mode: False)  # root may all
    assert "mine is not writable; give another folder" in refused("mine")


@pytest.mark.parametrize("folder", ["bare.git", "bare.git/below", "faces/.git/below"])
def test_the_data_of_a_git_repository_is_no_place_for_a_project(folder):
    git("init", "-q", "--bare", "bare.git")
    git("init", "-q", "faces")
    assert "is inside the data of a git repository" in refused(folder)


def test_the_printed_command_enters_a_folder_that_looks_like_an_option():
    assert "cd ./-x\n" in init("--", "-x").stdout


@pytest.mark.parametrize(
    ("config", "is_told"),
    [
        ("", True),
        ("[cache]\n    dir = /x%y\n", True),
        ("no config", True),
        ("[cache]\n    type = reflink\n", False),
    ],
)
def test_a_dvc_project_that_copies_its_outputs_is_told_so(somewhere, config, is_told):
    (somewhere / ".dvc").mkdir()
    (somewhere / ".dvc" / "config").write_text(config)
    told = init(".").stdout
    assert ("dvc config cache.type hardlink,copy" in told) == is_told
    assert (somewhere / ".dvc" / "config").read_text() == config
    assert "cache.type" not in init("new").stdout


def test_a_folder_that_git_ignores_is_refused(somewhere):
    git("init", "-q")
    (somewhere / ".gitignore").write_text("scratch/\n")
    assert "ignores scratch/faces" in refused("scratch/faces")
    assert not (somewhere / "scratch").exists()


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_everything_as_it_was(somewhere, monkeypatch, exists):
    if exists:
        (somewhere / "faces").mkdir()
        (somewhere / "faces" / ".gitignore").write_text("mine\n")
    before = content(somewhere)
    calls = []

    def rename(source, target):
        calls.append(target)
        if len(calls) == 4:
            raise OSError(28, "No space left on device", str(target))
        os.replace(source, target)

    if exists:
        monkeypatch.setattr(new_project.os, "rename", rename)
    else:
        monkeypatch.setattr(new_project.shutil, "copyfile", lambda *_: rename("x", "y"))
    assert "no space left" in refused("faces") if exists else init("faces").exit_code == 1
    assert content(somewhere) == before
    assert (somewhere / "faces").exists() == exists
    if exists:
        assert [path.name for path in (somewhere / "faces").iterdir()] == [".gitignore"]


def test_without_git_the_project_says_so_to_dvc(monkeypatch):
    monkeypatch.setenv("PATH", "")
    result = init("faces")
    assert result.exit_code == 0, result.output
    assert "note: git is not installed" in result.stdout
    assert not Path("faces/.git").exists()
    assert "no_scm = true" in Path("faces/.dvc/config.local").read_text()


@pytest.mark.medium  # real DVC
@pytest.mark.parametrize("kind", ["below the top of a repository", "without git"])
def test_dvc_takes_it_for_a_project(somewhere, monkeypatch, kind):
    environment = os.environ | {"DVC_SITE_CACHE_DIR": str(somewhere / "site")}
    if kind == "without git":
        monkeypatch.setenv("PATH", "")
        environment["PATH"] = str(Path(sys.executable).parent)
    else:
        git("init", "-q")
    assert init("faces").exit_code == 0
    command = [sys.executable, "-m", "dvc", "status"]
    done = subprocess.run(command, cwd="faces", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "always changed" in done.stdout and done.stderr == ""
