"""Trainings that are made again: equal, with uncommitted changes, tampered with."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sg3flow.errors import DataError
from sg3flow.files import sha256_file
from sg3flow.runs.reproduce import compare
from sg3flow.runs.worktree import read_record

pytestmark = pytest.mark.medium


def edited(project, name: str, file: str, change) -> Path:
    """A copy of the first run whose record was changed by hand."""
    folder = project.folder / "runs" / name
    shutil.copytree(project.folder / "runs" / "first", folder)
    for each in {"run.json", file}:
        content = json.loads((folder / each).read_text())
        if each == "run.json":
            content["uid"] = sha256_file(folder / "run.json")[:20] + name[:12].encode().hex()[:12]
        if each == file:
            change(content)
        (folder / each).write_text(json.dumps(content))
    return folder


def files_of(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in sorted(folder.rglob("*"))}


def test_the_same_commit_gives_the_same_bytes(project):
    before = files_of(project.folder / "state") | files_of(project.folder / "runs")
    done = project.reproduce("runs/first")
    assert "network-snapshot-000001.pkl: equal" in done.stdout
    assert done.stdout.splitlines()[-1] == "equal: every snapshot has the recorded SHA-256"
    # The user's tree, state and runs are as they were.
    assert project.git("status", "--porcelain") == ""
    assert files_of(project.folder / "state") | files_of(project.folder / "runs") == before
    record = read_record(project.folder / "runs" / "first")
    place = project.folder / "reproductions" / record.short_id
    assert project.git("-C", str(place / "tree"), "rev-parse", "HEAD") == record.commit
    report = json.loads((place / "reproduction.json").read_text())
    assert report["equal"] is True and report["commit"] == record.commit
    assert (
        sha256_file(place / "run" / "network-snapshot-000001.pkl")
        == (record.digests["network-snapshot-000001.pkl"])
    )


@pytest.mark.slow
def test_uncommitted_changes_are_applied(project):
    source = project.folder / "src" / "sg3flow" / "training" / "step.py"
    committed = source.read_text()
    assert "0.5 **" in committed
    source.write_text(committed.replace("0.5 **", "0.25 **"))
    try:
        out = project.train("runs/dirty", "--desc", "dirty")
    finally:
        source.write_text(committed)
    record = read_record(out)
    assert record.provenance["code"]["dirty"] and b"0.25 **" in record.diff()
    first = read_record(project.folder / "runs" / "first")
    last = "network-snapshot-000001.pkl"
    assert record.commit == first.commit and record.digests[last] != first.digests[last]
    done = project.reproduce("runs/dirty")
    assert "equal: every snapshot has the recorded SHA-256" in done.stdout
    assert source.read_text() == committed


def tampered(project, name: str) -> Path:
    def change(run):
        run["params"]["gamma"] = 50.0

    return edited(project, name, "run.json", change)


def test_a_tampered_record_is_found_out(project):
    folder = tampered(project, "tampered")
    done = project.reproduce(str(folder), ok=False)
    assert "the record was edited" in done.stderr and len(done.stderr.splitlines()) == 1
    place = project.folder / "reproductions" / read_record(folder).short_id
    assert not (place / "run").exists()


def test_a_result_lists_the_differences_from_the_record(project):
    first = project.folder / "runs" / "first"

    def change(provenance):
        provenance["compute"] |= {"torch": "0.1", "threads": 64, "ops": "torch"}
        provenance["conv_forms"] = {"setting": "auto", "layers": [{"form": "nhwc"}]}

    record = read_record(edited(project, "elsewhere", "provenance.json", change))
    assert compare(record, first, record.run["fingerprint"]).equal
    last = "network-snapshot-000001.pkl"
    other = dataclasses.replace(record, digests={**record.digests, last: "0" * 64})
    result = compare(other, first, record.run["fingerprint"])
    now = record.packages["torch"]
    assert not result.equal and result.snapshots[last] == "differs"
    assert result.snapshots["network-snapshot-000000.pkl"] == "equal"
    assert result.differences[:2] == [
        f"torch changed: 0.1 -> {now}",
        "threads changed: 64 -> 1",
    ]
    assert "forms of convolutions changed" in result.differences
    line = list(result.lines())[-1]
    assert "NOT equal. Differences from the record: torch changed: 0.1 -> " in line
    same = dataclasses.replace(other, provenance=read_record(first).provenance)
    [*_, line] = compare(same, first, record.run["fingerprint"]).lines()
    assert "NOT equal, without a difference from the record" in line
    with pytest.raises(DataError, match="recorded no digest"):
        compare(dataclasses.replace(record, digests={}), first, "")


def test_equal_beginnings_say_nothing_of_an_end_that_was_not_recorded(project):
    first = project.folder / "runs" / "first"
    record = read_record(first)
    begun = "network-snapshot-000000.pkl"
    known = dataclasses.replace(record, digests={begun: record.digests[begun]})
    result = compare(known, first, record.run["fingerprint"])
    assert result.snapshots[begun] == "equal" and not result.equal
    assert list(result.lines())[-1] == (
        "NOT compared to the end: the run recorded no digest of network-snapshot-000001.pkl"
    )


@pytest.mark.slow
def test_a_tampered_setting_gives_another_result(project):
    folder = tampered(project, "trained")
    done = project.reproduce(str(folder), "--force", ok=False)
    assert "network-snapshot-000000.pkl: equal" in done.stdout
    assert "network-snapshot-000001.pkl: differs" in done.stdout
    assert "NOT equal. Differences from the record: fingerprint changed" in done.stdout


def test_other_packages_are_a_warning(project):
    def change(provenance):
        provenance["code"]["untracked"] = ["src/mine.py"]

    folder = edited(project, "warned", "provenance.json", change)
    packages = folder / "packages.txt"
    packages.write_text(packages.read_text().replace("torch==", "torch==0."))
    done = project.reproduce(str(folder), "--data", "dvc.yaml", ok=False)
    assert "warning: files that git did not track are missing: src/mine.py" in done.stdout
    assert "1 packages differ from the run's: torch 0." in done.stdout
    assert "dvc.yaml is not the set of the run" in done.stderr


@pytest.mark.slow
def test_a_network_from_the_tracking_server_is_brought_for_the_new_training(project, monkeypatch):
    from sg3flow.tracking.mlflow_store import connect, training_run_id

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder / 'mlflow.db'}")
    monkeypatch.chdir(project.folder)
    client, run_id = connect().client, training_run_id(Path("runs/first"))
    assert run_id is not None
    last = "network-snapshot-000001.pkl"
    client.log_artifact(run_id, str(Path("runs/first") / last))
    source = f"runs:/{run_id}/{last}"
    record = read_record(project.train("runs/resumed", "--resume", source).resolve())
    digest = sha256_file(Path("runs/first") / last)
    assert record.network == {"source": source, "shortened": False, "sha256": digest}
    done = project.reproduce("runs/resumed")
    assert f"{last}: equal" in done.stdout
    other = "runs/first/network-snapshot-000000.pkl"
    done = project.reproduce("runs/resumed", "--resume", other, ok=False)
    assert f"{other} is not the network that the run started from" in done.stderr


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("runs", "runs is not a run folder"),
        ("nobody", "MLflow has no training 'nobody'; give a run id"),
        ("nobody@champion", "the registry is empty"),
        ("models:/nobody/3", "the registry is empty"),
        ("0" * 32, "MLflow has no run 0000"),
        ("it's", "MLflow has no training 'it's'"),
    ],
)
def test_what_is_no_training_is_one_line(project, run, message, monkeypatch, tmp_path):
    from sg3flow.errors import Sg3flowError
    from sg3flow.tracking.tracked_runs import find_record

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder / 'mlflow.db'}")
    monkeypatch.chdir(project.folder)
    with pytest.raises(Sg3flowError, match=message):
        find_record(run, tmp_path)


def test_every_name_of_a_training_leads_to_it(project, monkeypatch, tmp_path):
    from sg3flow.errors import TrackingError
    from sg3flow.tracking.mlflow_store import connect, training_run_id
    from sg3flow.tracking.tracked_runs import find_record

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder / 'mlflow.db'}")
    monkeypatch.chdir(project.folder)
    run_dir = Path("runs/first")
    run_id = training_run_id(run_dir)
    assert run_id is not None
    store = connect()
    client = store.client
    own = read_record(run_dir.resolve())
    tags = {"sg3flow.stage": "evaluate", "mlflow.parentRunId": run_id}
    child = client.create_run(store.experiment_id, tags=tags).info.run_id
    client.create_registered_model("pets")
    client.create_model_version("pets", "runs:/x/y", run_id)
    client.create_model_version("pets", "runs:/x/y", child)
    client.set_registered_model_alias("pets", "champion", "2")
    names = [run_id, own.run["uid"], own.run["name"], child]
    names += ["models:/pets/1", "pets@champion", "models:/pets@champion"]
    for number, name in enumerate(names):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        record = find_record(name, scratch)
        assert record.run == own.run and record.digests == own.digests
        assert record.provenance == own.provenance and record.packages == own.packages
    lone = client.create_run(store.experiment_id, tags={"sg3flow.stage": "fetch"}).info.run_id
    with pytest.raises(TrackingError, match="belongs to no training"):
        find_record(lone, tmp_path)
    client.create_run(
        store.experiment_id, tags={"sg3flow.stage": "train"}, run_name=own.run["name"]
    )
    with pytest.raises(TrackingError, match="2 trainings are called"):
        find_record(own.run["name"], tmp_path)


def test_a_run_on_the_server_holds_what_the_machine_was(project, monkeypatch):
    from sg3flow.tracking.mlflow_store import connect, training_run_id

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder / 'mlflow.db'}")
    monkeypatch.chdir(project.folder)
    client = connect().client
    run_id = training_run_id(Path("runs/first"))
    assert run_id is not None
    run = client.get_run(run_id)
    own = read_record(Path("runs/first").resolve())
    tags, compute = run.data.tags, own.provenance["compute"]
    assert tags["mlflow.source.git.commit"] == project.git("rev-parse", "HEAD")
    assert tags["sg3flow.git_dirty"] == "false" and tags["sg3flow.ops"] == compute["ops"]
    assert tags["sg3flow.version.torch"] == compute["torch"]
    assert tags["sg3flow.reproduce"] == f"sg3flow reproduce {own.run['uid']}"
    assert tags["sg3flow.data"] == own.data["digest"] and tags["sg3flow.seed"] == "0"
    assert run.data.params["gamma"] == "0.1" and run.data.params["batch_gpu"] == "100"
    assert "system/cpu_utilization_percentage" in run.data.metrics
    artifacts = {each.path for each in client.list_artifacts(run_id)}
    assert {"run.json", "provenance.json", "packages.txt", "params.yaml"} <= artifacts
    given = json.loads((own.folder / "training_options.json").read_text())["given"]
    assert "training_options.json" in artifacts and given["batch_gpu"] == 0
