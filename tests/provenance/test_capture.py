"""The provenance that a training writes when it starts."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from sg3flow.files import sha256_file
from sg3flow.git import diff_digest
from sg3flow.runs import code_state
from sg3flow.runs import provenance as module
from sg3flow.runs.provenance import installed_packages, write_provenance
from sg3flow.runs.run_folder import (
    format_packages,
    parse_packages,
    read_packages,
    read_provenance,
)

CPU = torch.device("cpu")
TOLD = {"uid": "ab" * 16, "command": "python stages/train.py", "data": {}, "start_nimg": 0}


@pytest.fixture
def place(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A project as the current folder, and a run folder."""
    project, work = tmp_path / "project", tmp_path / "work"
    project.mkdir()
    work.mkdir()
    monkeypatch.chdir(project)
    return project, work


def with_changes(monkeypatch, diff: bytes):
    """As if the tree had these changes."""
    facts = {"bytes": len(diff), "sha256": diff_digest(diff), "withheld": []}
    facts["complete"] = len(diff) <= module.MOST_DIFF_BYTES
    told = {"commit": "c" * 40, "dirty": bool(diff), "diff": facts}
    monkeypatch.setattr(module, "code_info", lambda: (told, diff))


def test_everything_is_in_the_folder(place, monkeypatch):
    project, work = place
    (project / "params.yaml").write_text(
        "fetch: {dataset: 'https://me:hunter2@host/a.zip?k=hunter2'}\n"
    )
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with_changes(monkeypatch, b"diff --git a/x b/x\n")
    written = {path.name for path in write_provenance(work, CPU, TOLD)}
    assert written == {"provenance.json", "packages.txt", "code.diff", "params.yaml", "dvc.lock"}
    text = (work / "provenance.json").read_text()
    assert "hunter2" not in text
    assert (work / "params.yaml").read_text() == "fetch: {dataset: 'https://host/a.zip'}\n"
    told = json.loads(text)
    assert told == read_provenance(work)
    assert told["reproduce"] == f"sg3flow reproduce {'ab' * 16}"
    assert told["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert told["files"]["dvc.lock"] == sha256_file(project / "dvc.lock")
    assert told["compute"]["torch"] == torch.__version__
    assert told["compute"]["ops"].split(" ")[0] in ("cpu", "torch")
    assert told["compute"]["threads"] == torch.get_num_threads()
    machine = told["machine"]
    assert machine["cpu"] and machine["memory_gib"] > 0 and machine["gpus"] == []
    assert 1 <= machine["usable_cores"] <= (os.cpu_count() or 1)
    assert read_packages(work)["torch"] == torch.__version__


def test_a_start_that_differs_is_recorded_and_an_equal_one_is_not(place, monkeypatch):
    _, work = place
    with_changes(monkeypatch, b"diff --git a/x b/x\n")
    write_provenance(work, CPU, TOLD)
    write_provenance(work, CPU, TOLD | {"start_nimg": 500})
    assert [row["nimg"] for row in read_provenance(work)["setups"]] == [0]
    with_changes(monkeypatch, b"")
    written = write_provenance(work, CPU, TOLD | {"start_nimg": 700})
    assert "code.diff" not in [path.name for path in written]
    assert not (work / "code.diff").exists()
    assert [row["nimg"] for row in read_provenance(work)["setups"]] == [0, 700]


def test_too_large_a_diff_is_cut_and_says_so(place, monkeypatch):
    _, work = place
    monkeypatch.setattr(module, "MOST_DIFF_BYTES", 1000)
    with_changes(monkeypatch, b"+line\n" * 1000)
    write_provenance(work, CPU, TOLD)
    content = (work / "code.diff").read_bytes()
    assert len(content) < 1100 and b"the whole diff has 6000 bytes" in content
    assert read_provenance(work)["code"]["diff"]["complete"] is False


def test_the_running_code_is_found(monkeypatch, tmp_path):
    facts, diff = code_state.code_info()
    assert facts["version"] and isinstance(diff, bytes)
    # For an installed package it is the folder of the script.
    monkeypatch.setattr(code_state, "git_tree", lambda folder, tracked=None: None)
    script = tmp_path / "stages" / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert code_state.code_folder() == tmp_path
    assert code_state.code_info()[0]["commit"] == ""


def test_the_error_of_git_is_recorded_and_printed(place, monkeypatch, capsys):
    project, work = place
    (project / ".git").write_text("gitdir: /nowhere\n")
    monkeypatch.setattr(code_state, "code_folder", lambda: project)
    write_provenance(work, CPU, TOLD)
    told = read_provenance(work)["code"]
    assert told["commit"] == "" and "nowhere" in told["git_error"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: commit and changes are not recorded, git says: ")


def test_packages_survive_their_file():
    found = installed_packages()
    assert found["great-expectations"] and found["torch"] == torch.__version__
    assert parse_packages(format_packages(found)) == found


def test_a_damaged_file_is_no_provenance(tmp_path):
    (tmp_path / "provenance.json").write_text("[1]")
    assert read_provenance(tmp_path) is None
    assert read_packages(tmp_path) == {}
