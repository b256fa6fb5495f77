"""What a git revision says of its run: its lock file, and what DVC's cache has of it."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sg3flow.compare.facts import Facts
from sg3flow.compare.revisions import find_revision, read_revision
from sg3flow.git import git_environment


def git(folder: Path, *arguments: str):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, cwd=folder, env=git_environment(), check=True, capture_output=True)


@pytest.fixture
def project(tmp_path) -> Path:
    """An empty DVC project under git."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    git(tmp_path, "init", "-q")
    return tmp_path


def keep(project: Path, content: bytes, suffix: str = "") -> str:
    """Put content into DVC's cache; its name there."""
    name = hashlib.md5(content).hexdigest() + suffix
    path = project / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def committed(project: Path, row, *, judged: str = "") -> Facts:
    """The facts of a revision with a training and a report of the training ``judged``."""
    described = {"name": "run", "params": {"gamma": 2}}
    files = [{"relpath": "run.json", "md5": keep(project, json.dumps(described).encode())}]
    trained = keep(project, json.dumps(files).encode(), ".dir")
    report = {
        "format": "sg3flow-metrics-1",
        "best": {"metric": "fid9_full"},
        "results": [row(4, 5)],
    }
    measured = keep(project, json.dumps(report).encode())
    stages = {
        "train": {"outs": [{"path": "runs/train", "md5": trained}]},
        "evaluate": {
            "deps": [{"path": "runs/train", "md5": judged or trained}],
            "outs": [{"path": "reports/metrics.json", "md5": measured}],
        },
    }
    with (project / "dvc.lock").open("w") as stream:
        YAML().dump({"schema": "2.0", "stages": stages}, stream)
    git(project, "add", "dvc.lock")
    git(project, "commit", "-qm", "results")
    revision = find_revision(project, "HEAD")
    assert revision is not None
    return read_revision(project, revision, "")


def test_a_report_counts_for_the_training_that_it_was_made_of(project, row):
    facts = committed(project, row)
    assert facts.best["fid9_full"]["value"] == 5 and facts.params["train.gamma"] == "2"
    assert not any("not measured" in note for note in facts.notes)
    facts = committed(project, row, judged="0" * 32 + ".dir")
    assert facts.best == {} and facts.results == [] and facts.params["train.gamma"] == "2"
    assert any("not measured: its dvc.lock has the evaluation of another" in n for n in facts.notes)
