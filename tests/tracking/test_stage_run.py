"""What a stage tells MLflow."""

from pathlib import Path

import pytest

from sg3flow.config import PackConfig
from sg3flow.errors import DataError
from sg3flow.tracking.stage_run import flat_params, tracked_stage
from sg3flow.tracking.store import connect


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "a b"  # a path with a space
    (folder / ".dvc").mkdir(parents=True)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def test_a_run_of_a_stage_is_recorded(project):
    (project / "report.json").write_text("{}")
    with tracked_stage("pack", PackConfig(subset="train")) as run:
        run.metrics({"images": 3})
        run.artifact(project / "report.json", "reports")
        run.dataset(name="set", digest="cd" * 32, source="starter", profile={"num_images": 3})
    store = connect()
    assert store.uri == f"sqlite:///{project / 'mlflow.db'}"
    [found] = store.client.search_runs([store.experiment_id])
    assert found.info.run_name == "pack" and found.info.status == "FINISHED"
    assert found.data.params["subset"] == "train" and found.data.metrics == {"images": 3.0}
    assert found.info.artifact_uri.startswith(str(project / "mlruns"))
    [artifact] = store.client.list_artifacts(found.info.run_id, "reports")
    assert artifact.path == "reports/report.json"
    assert found.inputs.dataset_inputs[0].dataset.name == "set"


def test_a_failure_is_recorded_as_one(project):
    with pytest.raises(DataError), tracked_stage("pack", PackConfig()) as run:
        run.metrics({"images": 1})
        raise DataError("no pictures")
    store = connect()
    [found] = store.client.search_runs([store.experiment_id])
    assert found.info.status == "FAILED" and found.data.tags["sg3flow.error"] == "no pictures"


def test_an_unreachable_server_is_a_warning(project, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracked_stage("pack", PackConfig()) as run:
        run.metrics({"images": 1})
    assert "warning: not tracked" in capsys.readouterr().err


def test_settings_become_text():
    params = flat_params(PackConfig(max_images=5))
    assert params["max_images"] == "5" and params["subset"] == ""
