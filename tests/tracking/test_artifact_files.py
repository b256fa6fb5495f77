"""Artifacts of the default store are second names of files; a change of one shows in no other."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from mlflow.artifacts import download_artifacts

from sg3flow.files import sha256_file, write_bytes
from sg3flow.runs.run_folder import JsonlReporter
from sg3flow.settings import Tag
from sg3flow.tracking.artifact_files import link_artifact, remove_artifact
from sg3flow.tracking.mlflow_store import connect
from sg3flow.tracking.tracked_runs import read_tracked_run
from sg3flow.tracking.uploader import Uploader


def stored(pattern: str) -> Path:
    [path] = Path("mlruns").rglob(pattern)
    return path


def test_snapshots_and_grids_are_linked_and_what_people_edit_is_copied(run_folder):
    Uploader(run_folder).send()
    snapshot = next(run_folder.glob("*.pkl"))
    assert stored("network-snapshot-*.pkl").samefile(snapshot)
    grid = run_folder / "fakes000000.png"
    assert stored("samples+step+0+*.png").samefile(grid)
    assert not stored("networks.txt").samefile(run_folder / "networks.txt")
    assert stored("networks.txt").read_text() == "layers"


def test_a_new_file_of_the_name_or_a_removed_one_changes_no_other_place(run_folder, tmp_path):
    Uploader(run_folder).send()
    snapshot, artifact = next(run_folder.glob("*.pkl")), stored("network-snapshot-*.pkl")
    content = artifact.read_bytes()
    [model] = connect().client.search_logged_models(["1"])
    taken = Path(download_artifacts(f"models:/{model.model_id}", dst_path=str(tmp_path)))
    taken = taken / snapshot.name
    assert not taken.samefile(artifact)
    write_bytes(snapshot, b"trained again")
    assert artifact.read_bytes() == content == taken.read_bytes()
    connect().client.log_model_artifact(model.model_id, str(snapshot))  # MLflow replaces it, too
    assert artifact.read_bytes() == b"trained again" and not artifact.samefile(snapshot)
    assert remove_artifact(model.artifact_location, snapshot.name)
    assert not artifact.exists() and snapshot.read_bytes() == b"trained again"
    assert remove_artifact(model.artifact_location, snapshot.name)  # it is gone already


def test_a_snapshot_that_is_not_kept_leaves_the_default_store_too(run_folder, tmp_path):
    snapshot = next(run_folder.glob("*.pkl"))
    Uploader(run_folder).send()
    artifact = stored("network-snapshot-*.pkl")
    JsonlReporter(run_folder).pruned(snapshot, 3000)
    snapshot.unlink()
    Uploader(run_folder).send()
    assert not artifact.exists()
    client = connect().client
    [model] = client.search_logged_models(["1"])
    assert model.tags[Tag.PRUNED] == "true" and [m.key for m in model.metrics] == ["metrics/fid"]
    assert read_tracked_run(model.source_run_id, tmp_path).snapshots == []
    shutil.rmtree("state/sent")  # sent again from the start, nothing comes back
    Uploader(run_folder).send()
    assert not artifact.exists()


def test_one_that_was_trained_again_since_stays(run_folder):
    snapshot = next(run_folder.glob("*.pkl"))
    reporter = JsonlReporter(run_folder)
    reporter.pruned(snapshot, 3000)
    write_bytes(snapshot, b"trained again")
    reporter.snapshot(snapshot, 3000, sha256_file(snapshot))
    Uploader(run_folder).send()
    assert stored("network-snapshot-*.pkl").samefile(snapshot)


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_without_hard_links_the_store_gets_copies(run_folder, is_complete, monkeypatch, reason):
    def refused(*given, **more):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "link", refused)
    Uploader(run_folder).send()
    is_complete(run_folder)
    snapshot = next(run_folder.glob("*.pkl"))
    artifact = stored("network-snapshot-*.pkl")
    assert artifact.read_bytes() == snapshot.read_bytes() and not artifact.samefile(snapshot)


@pytest.mark.parametrize(
    "address",
    [
        "mlflow-artifacts:/1/models/m-1",
        "s3://bucket/1",
        "https://host/1",
        "file://host/1",
        "mlruns",
    ],
)
def test_a_store_elsewhere_is_left_to_mlflow(tmp_path, address):
    source = tmp_path / "a.pkl"
    source.write_bytes(b"1")
    assert not link_artifact(address, "a.pkl", source)
    assert not remove_artifact(address, "a.pkl")
    assert sorted(os.listdir()) == [".dvc", "mlflow.db"]


@pytest.mark.parametrize("form", [str, Path.as_uri], ids=["path", "url"])
def test_addresses_of_folders_with_unusual_names(tmp_path, form):
    source, folder = tmp_path / "a.pkl", tmp_path / "100% of a#1"
    source.write_bytes(b"1")
    assert link_artifact(form(folder), "images/b.pkl", source)
    assert (folder / "images/b.pkl").samefile(source)
