"""A run of an installed package: its code is a version, and a commit is not needed."""

import json
import shutil
from pathlib import Path

import pytest

from sg3flow import __version__
from sg3flow.errors import DataError
from sg3flow.runs import reproduction_inputs
from sg3flow.runs.reproduce import _command, _contradiction, _warnings
from sg3flow.runs.reproduction_inputs import find_data
from sg3flow.runs.worktree import Record, prepare_worktree, read_record

pytestmark = pytest.mark.medium  # of a training that the tests of reproduction share


@pytest.fixture
def record_of(project, tmp_path):
    """The record of a training, made by an installed package of a version."""

    def changed(version: str, **code) -> Record:
        folder = tmp_path / "run"
        shutil.copytree(project.folder / "runs" / "first", folder, dirs_exist_ok=True)
        path = folder / "provenance.json"
        content = json.loads(path.read_text())
        content["code"] |= {"version": version, "package_in_tree": False} | code
        path.write_text(json.dumps(content))
        return read_record(folder)

    return changed


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A project outside git."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    return folder


def test_it_is_reproduced_in_a_plain_folder_of_its_own(record_of, elsewhere, monkeypatch):
    record = record_of(__version__, commit="", prefix="")
    worktree = prepare_worktree(record, elsewhere, clean=False)
    assert worktree.project == elsewhere / "reproductions" / record.short_id / "tree"
    assert {path.name for path in worktree.project.iterdir()} == {".dvc"} | {
        name for name in ("params.yaml", "dvc.lock") if name in record.provenance["files"]
    }
    assert _command(worktree, Path("x.zip"))[1:5] == ["-P", "-m", "sg3flow", "train"]
    (worktree.folder / "kept").write_text("")
    assert prepare_worktree(record, elsewhere, clean=False) == worktree
    assert (worktree.folder / "kept").exists()  # an interrupted attempt is resumed
    prepare_worktree(record, elsewhere, clean=True)
    assert not (worktree.folder / "kept").exists()


def test_dvc_is_not_asked_for_data_in_a_folder_without_pipeline(record_of, elsewhere, monkeypatch):
    """It would take the project above for its own, and change it."""

    def fail(*arguments, **options):
        raise AssertionError("DVC was called")

    monkeypatch.setattr(reproduction_inputs, "_dvc", fail)
    record = record_of(__version__, commit="", prefix="")
    monkeypatch.setattr(reproduction_inputs, "_pipeline_stage", lambda *_: ("pack", Path("x.zip")))
    worktree = prepare_worktree(record, elsewhere, clean=False)
    with pytest.raises(DataError, match="was not found"):
        find_data(record, worktree, elsewhere, None, print)


def test_the_version_to_install_is_named(record_of, elsewhere):
    record = record_of("0.1.9", commit="", prefix="")
    worktree = prepare_worktree(record, elsewhere, clean=False)
    words = f"the run used sg3flow 0.1.9, here is {__version__}"
    assert words in list(_warnings(record, worktree))
    assert "`pip install sg3flow==0.1.9` and run again" in _contradiction(record, "0" * 16)
    same = record_of(__version__, commit="", prefix="")
    assert not any("sg3flow" in warning for warning in _warnings(same, worktree))
    assert "another build of sg3flow" in _contradiction(same, "0" * 16)


def test_code_of_a_folder_without_a_commit_is_still_refused(record_of, project):
    record = record_of(__version__, commit="", package_in_tree=True)
    with pytest.raises(DataError, match="was trained outside git"):
        prepare_worktree(record, project.folder, clean=False)
