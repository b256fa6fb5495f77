"""A record that cannot be reproduced gives the reason, and leaves nothing behind."""

import json
import shutil
from pathlib import Path

import pytest

from sg3flow.errors import DataError
from sg3flow.git import diff_digest
from sg3flow.runs.provenance import network_info
from sg3flow.runs.reproduce import _contradiction, _environment, reproduce
from sg3flow.runs.worktree import Worktree, prepare_worktree, read_record

pytestmark = pytest.mark.medium


@pytest.fixture
def copy(project, tmp_path, monkeypatch) -> Path:
    """A copy of the first run's folder to damage, with a new uid."""
    folder = tmp_path / "run"
    shutil.copytree(project.folder / "runs" / "first", folder)
    monkeypatch.chdir(project.folder)
    change(folder, "run.json", uid=tmp_path.name.encode().hex().ljust(32, "0")[-32:])
    return folder


def change(folder: Path, name: str, **values):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def change_code(folder: Path, **values):
    code = json.loads((folder / "provenance.json").read_text())["code"]
    change(folder, "provenance.json", code=code | values)


def refused(project, folder: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        reproduce(read_record(folder), project.folder, lambda line: None, **options)
    return str(caught.value)


def folder_of(project, folder: Path) -> Path:
    return project.folder / "reproductions" / read_record(folder).short_id


def test_a_commit_that_is_not_here(project, copy):
    change_code(copy, commit="1" * 40, remote="https://host.example/a.git")
    message = refused(project, copy)
    assert "commit 111111111111" in message and "is not in this repository" in message
    assert "https://host.example/a.git" in message and "git fetch" in message
    change_code(copy, commit="")
    assert "was trained outside git" in refused(project, copy)
    assert not folder_of(project, copy).exists()


def test_outside_git(project, copy, tmp_path):
    with pytest.raises(DataError, match="is in no git repository"):
        prepare_worktree(read_record(copy), tmp_path, clean=False)


def test_changes_that_do_not_apply(project, copy):
    diff = (
        b"diff --git a/dvc.yaml b/dvc.yaml\n--- a/dvc.yaml\n+++ b/dvc.yaml\n"
        b"@@ -1 +1 @@\n-not its first line\n+another\n"
    )
    told = {"bytes": len(diff), "sha256": diff_digest(diff), "complete": True, "withheld": []}
    change_code(copy, diff=told)
    assert "is missing or is not what the run recorded" in refused(project, copy)
    (copy / "code.diff").write_bytes(diff)
    assert "uncommitted changes do not apply to its commit" in refused(project, copy)
    change_code(copy, diff=told | {"complete": False})
    assert "too many to record" in refused(project, copy)
    assert not folder_of(project, copy).exists()
    assert str(folder_of(project, copy)) not in project.git("worktree", "list")


def test_data_that_is_gone_or_another_set(project, copy, write_packed, tmp_path):
    data = read_record(copy).data
    change(copy, "provenance.json", data=dict(data) | {"path": "data/gone.zip"})
    message = refused(project, copy)
    assert "data/gone.zip (not there)" in message and "--data PATH" in message
    assert f"8 images of 16 px, digest {data['digest'][:12]}" in message
    other = write_packed(tmp_path / "other.zip", shade=9)
    assert "is not the set of the run" in refused(project, copy, data=other)
    change(copy, "provenance.json", data=dict(data) | {"path": str(other)})
    assert "other.zip (other content)" in refused(project, copy)


def test_a_length_without_a_recorded_snapshot_is_refused_before_anything_is_made(project, copy):
    params = json.loads((copy / "run.json").read_text())["params"]
    assert "--kimg must be from 1 to 1, the length of the run, not 2" in refused(
        project, copy, kimg=2
    )
    change(copy, "run.json", params=params | {"kimg": 10})
    for options in ({"kimg": 5}, {}):  # the run was stopped before its 10 kimg
        message = refused(project, copy, **options)
        assert f"no digest of network-snapshot-{options.get('kimg', 10):06d}.pkl" in message
        assert "a recorded one: network-snapshot-000000.pkl, network-snapshot-000001.pkl" in message
    assert not folder_of(project, copy).exists()


def test_an_address_that_lost_its_query_is_named_as_the_cause(project, copy):
    facts = network_info("https://host.example/a.pkl?key=x", "1" * 64)
    assert facts["shortened"] and "key" not in str(facts)
    change(copy, "provenance.json", network=facts)
    assert "without password or query" in _contradiction(read_record(copy), "0" * 12)


def test_variables_that_decide_are_those_of_the_run_and_no_others(project, copy, monkeypatch):
    change(copy, "provenance.json", variables={"MKL_CBWR": "COMPATIBLE"})
    for name in ("MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "OTHER"):
        monkeypatch.setenv(name, "0")
    record = read_record(copy)
    place = Worktree(folder_of(project, copy), folder_of(project, copy) / "tree")
    found = _environment(record, place)
    assert found["MKL_CBWR"] == "COMPATIBLE" and found["OTHER"] == "0"
    assert found["CUDA_VISIBLE_DEVICES"] == "0"  # which GPUs there are is this machine's
    assert not {"MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY"} & set(found)
    assert found["OMP_NUM_THREADS"] == str(record.provenance["compute"]["threads"])


def test_an_attempt_whose_folder_was_deleted_starts_over(project, copy):
    record = read_record(copy)
    place = prepare_worktree(record, project.folder, clean=False)
    shutil.rmtree(place.folder)
    assert prepare_worktree(record, project.folder, clean=False) == place
    assert (place.tree / "dvc.yaml").is_file()


def test_a_folder_that_is_not_ours_or_was_edited(project, copy):
    record = read_record(copy)
    folder = folder_of(project, copy)
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not a reproduction made by sg3flow"):
        prepare_worktree(record, project.folder, clean=True)
    assert (folder / "thesis.txt").read_text() == "mine"
    shutil.rmtree(folder)
    place = prepare_worktree(record, project.folder, clean=False)
    assert prepare_worktree(record, project.folder, clean=False) == place
    (place.tree / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(DataError, match="is not the recorded code"):
        prepare_worktree(record, project.folder, clean=False)
    place = prepare_worktree(record, project.folder, clean=True)
    committed = (project.folder / "dvc.yaml").read_text()
    assert (place.tree / "dvc.yaml").read_text() == committed


def test_folders_without_a_record(copy):
    told = json.loads((copy / "provenance.json").read_text())
    change(copy, "provenance.json", compute={})
    with pytest.raises(DataError, match=r"is damaged: it lacks compute\.device"):
        read_record(copy)
    change(copy, "provenance.json", compute=told["compute"])
    for prefix in ("../../..", "/etc", "a/../../b"):
        change_code(copy, prefix=prefix)
        with pytest.raises(DataError, match=r"code\.prefix leads out of a folder"):
            read_record(copy)
    change(copy, "provenance.json", code=told["code"])
    uid = json.loads((copy / "run.json").read_text())["uid"]
    change(copy, "run.json", uid="../../x")
    with pytest.raises(DataError, match=r"its run\.uid or"):
        read_record(copy)
    change(copy, "run.json", uid=uid)
    change(copy, "provenance.json", data=[1])
    with pytest.raises(DataError, match=r"it lacks data\.path"):
        read_record(copy)
    (copy / "provenance.json").unlink()
    with pytest.raises(DataError, match=r"no readable provenance.json.*sg3flow sync"):
        read_record(copy)
    (copy / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"no readable run.json"):
        read_record(copy)
