"""DVC restores the packed set of a run from the cache or a remote, or makes it again."""

import shutil
from pathlib import Path

import pytest

from sg3flow.data.archive import PackedSet
from sg3flow.runs.reproduction_inputs import find_data
from sg3flow.runs.run_folder import PROVENANCE_FORMAT
from sg3flow.runs.worktree import Record, Worktree, prepare_worktree, read_record

pytestmark = pytest.mark.medium

PIPELINE = """\
stages:
  pack:
    cmd: cp raw.zip data/packed.zip && echo "$SG3FLOW_STATE_DIR" > data/told
    deps: [raw.zip]
    outs: [data/packed.zip]
"""


@pytest.mark.slow
def test_data_come_back_by_dvc(make_project, write_packed, tmp_path, monkeypatch):
    # DVC breaks some of its output at 80 columns.
    project = make_project(tmp_path / ("a long way down " * 4).strip() / "a clone")
    folder = project.folder
    write_packed(folder / "raw.zip")
    (folder / "data").mkdir()
    (folder / "dvc.yaml").write_text(PIPELINE)
    project("dvc", "repro", "-q")
    # The path is relative to the config file: in the worktree it would be another folder.
    project("dvc", "remote", "add", "-q", "-d", "store", "../remote")
    project.git("add", "-f", "raw.zip", "dvc.lock", "dvc.yaml", ".dvc/config")
    project.git("commit", "-qm", "data")
    project("dvc", "push", "-q")

    packed = folder / "data" / "packed.zip"
    data = {"path": "data/packed.zip", "digest": PackedSet(packed).digest, "name": "packed"}
    data |= {"num_images": 8, "resolution": 16}
    code = {"commit": project.git("rev-parse", "HEAD"), "prefix": ""}
    provenance = {
        "format": PROVENANCE_FORMAT,
        "code": code,
        "data": data,
        "folder": ".",
        "files": {},
    }
    record = Record(folder, {"uid": "ab" * 16}, provenance, {}, "a run")
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "DVC_SITE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / "mine"))

    def found(clean=True):
        place = prepare_worktree(record, folder, clean=clean)
        lines: list[str] = []
        path = find_data(record, place, folder, None, lines.append)
        assert PackedSet(path).digest == data["digest"]
        return path, place, "\n".join(lines)

    assert found()[0] == packed  # where it was
    packed.unlink()
    path, place, said = found()
    assert path == place.project / "data" / "packed.zip" and "again" not in said
    cache = folder / ".dvc" / "cache"
    shutil.rmtree(cache)
    path, place, said = found()  # only the remote has it
    assert path.is_relative_to(place.tree) and "again" not in said, said
    shutil.rmtree(cache)
    shutil.rmtree(folder.parent / "remote")
    path, place, said = found()  # not found: the recorded pipeline makes it
    assert path.is_relative_to(place.tree) and "by the recorded pipeline" in said
    assert (place.project / "data" / "told").read_text().strip() == str(place.state)
    assert "data: dvc pull: " in said and "no reason given" not in said
    assert not packed.exists() and project.git("status", "--porcelain") == ""


def test_data_given_by_a_relative_path_are_found_from_the_worktree_too(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    record = read_record(project.folder / "runs" / "first")
    place = Worktree(project.folder / "unused", project.folder / "unused")
    found = find_data(record, place, project.folder, Path("data/tiny.zip"), print)
    assert found == project.folder / "data" / "tiny.zip"
