"""What a git revision says of its run: its lock file, and what DVC's cache has of it."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sg3flow.compare.revision_source import find_revision, read_revision
from sg3flow.compare.run_data import RunData
from sg3flow.errors import DataError
from sg3flow.git import git_environment
from sg3flow.metrics.error_terms import digest_of, stored_form, write_terms


def git(folder: Path, *arguments: str):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, cwd=folder, env=git_environment(), check=True, capture_output=True)


@pytest.fixture
def project(tmp_path) -> Path:
    """A DVC project with a training and its evaluation, in a subfolder of a git repository."""
    git(tmp_path, "init", "-q")
    (tmp_path / "README").write_text("no project yet\n")
    git(tmp_path, "add", "README")
    git(tmp_path, "commit", "-qm", "empty")
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    remote = far\n")
    train = {"cmd": "train", "outs": ["runs/train"]}
    evaluate = {"cmd": "judge", "deps": ["runs/train"], "metrics": ["reports/metrics.json"]}
    with (folder / "dvc.yaml").open("w") as stream:
        YAML().dump({"stages": {"train": train, "evaluate": evaluate}}, stream)
    git(folder, "add", ".dvc/config", "dvc.yaml")
    return folder


def keep(project: Path, content: bytes, suffix: str = "") -> str:
    """Put content into DVC's cache; its name there."""
    name = hashlib.md5(content).hexdigest() + suffix
    path = kept_at(project, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def kept_at(project: Path, name: str) -> Path:
    return project / ".dvc" / "cache" / "files" / "md5" / name[:2] / name[2:]


def committed(
    project: Path, row, *, judged: str = "", report_name: str = "metrics.json"
) -> RunData:
    """The facts of a revision with a training and a report of the training ``judged``."""
    described = {"name": "run", "params": {"gamma": 2}}
    files = [{"relpath": "run.json", "md5": keep(project, json.dumps(described).encode())}]
    trained = keep(project, json.dumps(files).encode(), ".dir")
    report = {
        "format": "sg3flow-metrics-1",
        "best": {"metric": "fid9_full"},
        "results": [row(4, 5)],
    }
    outs = {"metrics.json": keep(project, b'{"kimg": 4, "fid9_full": 5}')}
    outs[report_name] = keep(project, json.dumps(report).encode())
    terms = project / "terms.npz"
    write_terms(terms, {"4/fid9_full": stored_form([0.5])})
    outs["evaluation.npz"] = keep(project, terms.read_bytes())
    stages = {
        "train": {"cmd": "train", "outs": [{"path": "runs/train", "hash": "md5", "md5": trained}]},
        "evaluate": {
            "cmd": "judge",
            "deps": [{"path": "runs/train", "md5": judged or trained}],
            "outs": [
                {"path": f"reports/{name}", "hash": "md5", "md5": md5} for name, md5 in outs.items()
            ],
        },
    }
    with (project / "dvc.lock").open("w") as stream:
        YAML().dump({"schema": "2.0", "stages": stages}, stream)
    git(project, "add", "dvc.lock")
    git(project, "commit", "-qm", "results")
    return read(project, "HEAD")


def read(project: Path, name: str) -> RunData:
    revision = find_revision(project, name)
    assert revision is not None
    return read_revision(project, revision, "")


@pytest.mark.parametrize("report_name", ["metrics.json", "evaluation.json"])
def test_a_report_counts_for_the_training_that_it_was_made_of(project, row, report_name):
    """Version 0.2 wrote metrics.json only; it is now a summary beside evaluation.json."""
    with (project / "dvc.yaml").open() as stream:
        stages = YAML(typ="safe").load(stream)
    outs = ["reports/evaluation.json"] if report_name == "evaluation.json" else []
    stages["stages"]["evaluate"]["outs"] = [*outs, "reports/evaluation.npz"]
    with (project / "dvc.yaml").open("w") as stream:
        YAML().dump(stages, stream)
    git(project, "add", "dvc.yaml")
    facts = committed(project, row, report_name=report_name)
    assert facts.best["fid9_full"]["value"] == 5 and facts.params["train.gamma"] == "2"
    assert list(facts.terms) == [digest_of(stored_form([0.5]))]
    assert not any("not measured" in note for note in facts.notes)
    facts = committed(project, row, judged="0" * 32 + ".dir", report_name=report_name)
    assert facts.best == {} and facts.results == [] and facts.params["train.gamma"] == "2"
    assert any(
        "not measured: the evaluation in its dvc.lock is of another" in n for n in facts.notes
    )


def test_what_is_not_in_the_cache_is_told_and_no_remote_is_asked(project, row):
    committed(project, row)
    with (project / ".dvc" / "config").open("a") as stream:
        stream.write("['remote \"far\"']\n    url = http://127.0.0.1:9/none\n")
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]
    listing = kept_at(project, lock["train"]["outs"][0]["md5"])
    [described] = json.loads(listing.read_text())
    kept_at(project, described["md5"]).unlink()
    kept_at(project, lock["evaluate"]["outs"][0]["md5"]).unlink()
    assert read(project, "HEAD").notes == (
        "not in DVC's cache: run.json; run dvc fetch",
        "reports/metrics.json is not in DVC's cache; run dvc fetch to get it from the remote",
        "not measured: there is no reports/evaluation.json; run stages/evaluate.py",
    )


@pytest.mark.parametrize("content", [None, b"{broken"])
def test_a_listing_that_is_missing_or_damaged(project, row, content):
    described = committed(project, row)
    lock = (project / "dvc.lock").read_text()
    name = hashlib.md5(b"another").hexdigest() + ".dir"  # none that DVC has read before
    was = YAML(typ="safe").load(lock)["stages"]["train"]["outs"][0]["md5"]
    (project / "dvc.lock").write_text(lock.replace(was, name))
    git(project, "commit", "-qam", "another training")
    if content is not None:
        kept_at(project, name).parent.mkdir(parents=True, exist_ok=True)
        kept_at(project, name).write_bytes(content)
    facts = read(project, "HEAD")
    assert (
        "runs/train is not in DVC's cache; run dvc fetch to get it from the remote" in facts.notes
    )
    assert facts.curves == {} and facts.best == described.best != {}


def test_a_cache_that_was_moved_since(project, row):
    before = committed(project, row)
    moved = project.parent / "elsewhere"
    (project / ".dvc" / "cache").rename(moved)
    (project / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {moved}\n")
    assert read(project, "HEAD") == before


def test_revisions_that_hold_no_training(project, row):
    committed(project, row)
    with pytest.raises(
        DataError, match=r"HEAD~1 \(.{9}\) cannot be read by DVC: Commit .* DVC repo"
    ):
        read(project, "HEAD~1")
    git(project, "rm", "-q", "--cached", "dvc.lock")
    git(project, "commit", "-qm", "without")
    with pytest.raises(DataError, match=r"has no dvc\.lock; commit it after dvc repro"):
        read(project, "HEAD")
