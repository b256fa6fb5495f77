"""What a stage reports to MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from sg3flow.config import EvaluateConfig, PackConfig
from sg3flow.errors import DataError, TrainingInterruptedError
from sg3flow.tracking.mlflow_store import connect, training_run_id
from sg3flow.tracking.outbox import flat_params
from sg3flow.tracking.upload_process import tracked_now, tracked_stage
from sg3flow.tracking.uploader import Uploader


@pytest.mark.medium
def test_a_run_of_a_stage_is_recorded(own_project):
    project = own_project
    (project / "report.json").write_text("{}")
    with tracked_stage("pack", PackConfig(subset="train")) as run:
        run.metrics({"images": 3})
        run.artifact(project / "report.json", "reports")
        run.artifact(project / "none.json")
        run.dataset(name="set", digest="cd" * 32, source="starter", profile={"num_images": 3})
    store = connect()
    assert store.uri == f"sqlite:///{project / 'mlflow.db'}"
    [found] = store.client.search_runs([store.experiment_id])
    assert found.info.run_name == "pack" and found.info.status == "FINISHED"
    assert found.info.start_time <= found.info.end_time
    assert found.data.params["subset"] == "train" and found.data.metrics == {"data/images": 3.0}
    assert found.info.artifact_uri.startswith((project / "mlruns").as_uri())
    [artifact] = store.client.list_artifacts(found.info.run_id, "reports")
    assert artifact.path == "reports/report.json"
    assert found.inputs.dataset_inputs[0].dataset.name == "set"


@pytest.fixture
def send(monkeypatch):
    """Sends the outbox of a stage from this process: an upload process takes seconds."""
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")

    def send() -> None:
        [outbox] = Path("state/tracking").iterdir()
        Uploader(outbox).send()

    return send


def test_curves_and_pictures_by_step_are_sent_in_batches(send, own_project, monkeypatch):
    Image.new("RGB", (4, 4)).save("picture.png")
    with tracked_stage("project", PackConfig()) as run:
        for first in (1, 51):
            run.curves(
                (step, 1e9 + step, {"projection/loss": 1 / step, "projection/psnr": float(step)})
                for step in range(first, first + 50)
            )
        run.step_image(Path("picture.png").read_bytes(), "projection/picture", 50)
        run.step_image(Path("picture.png").read_bytes(), "projection/picture", 100)
    batches = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient,
        "log_batch",
        lambda self, run_id, metrics=(), **rest: (
            batches.append(len(metrics)) or log_batch(self, run_id, metrics, **rest)
        ),
    )
    send()
    store = connect()
    [found] = store.client.search_runs([store.experiment_id])
    points = store.client.get_metric_history(found.info.run_id, "projection/loss")
    assert [(p.step, p.value, p.timestamp) for p in points] == [
        (step, 1 / step, int((1e9 + step) * 1000)) for step in range(1, 101)
    ]
    assert found.data.metrics["projection/psnr"] == 100.0
    assert [each for each in batches if each] == [200]
    images = [a.path for a in store.client.list_artifacts(found.info.run_id, "images")]
    steps = [path.split("+")[2] for path in images if path.endswith(".png")]
    assert sorted(steps) == ["100", "50"] and "projection~picture" in images[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [(DataError("no pictures"), "FAILED"), (TrainingInterruptedError("asked"), "KILLED")],
)
def test_an_early_end_is_recorded(send, error, status):
    with pytest.raises(type(error)), tracked_stage("pack", PackConfig()) as run:
        run.metrics({"images": 1})
        raise error
    send()
    store = connect()
    [found] = store.client.search_runs([store.experiment_id])
    assert found.info.status == status and found.data.tags["sg3flow.error"] == str(error)


def test_a_stage_that_needs_the_server_has_its_run_at_once():
    store = connect()
    with tracked_now("register", PackConfig()) as run_id:
        assert store.client.get_run(run_id).info.status == "RUNNING"
    assert store.client.get_run(run_id).info.status == "FINISHED"
    with pytest.raises(DataError), tracked_now("register", PackConfig()) as run_id:
        raise DataError("no")
    assert store.client.get_run(run_id).info.status == "FAILED"


def test_an_outbox_that_cannot_be_written_is_one_warning(own_project, capfd):
    (own_project / "state").write_text("a file where a folder should be")
    (own_project / "report.json").write_text("{}")
    with tracked_stage("pack", PackConfig()) as run:
        run.metrics({"images": 1})
        run.artifact(own_project / "report.json")
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: not tracked: ") and "the results are not affected" in line


def test_a_run_of_mlflow_is_the_parent_of_ours(send, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    with tracked_stage("pack", PackConfig()):
        pass
    send()
    store = connect()
    [found] = store.client.search_runs([store.experiment_id])
    assert found.data.tags["mlflow.parentRunId"] == "f" * 32


def test_a_training_is_the_parent_of_its_stages_in_any_case(run_folder, send, monkeypatch):
    """As under `mlflow run`, whose own run is then the parent of the training alone."""
    Uploader(run_folder).send()
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    with tracked_stage("evaluate", EvaluateConfig(), training_run=run_folder):
        pass
    send()
    store = connect()
    wanted = "tags.`sg3flow.stage` = 'evaluate'"
    [found] = store.client.search_runs([store.experiment_id], wanted)
    assert found.data.tags["mlflow.parentRunId"] == training_run_id(run_folder)


@pytest.mark.medium
def test_a_stage_does_not_import_the_client():
    """Its import takes a second, and a call to a server that hangs minutes."""
    program = (
        "import sys\n"
        "from sg3flow.config import PackConfig\n"
        "from sg3flow.tracking.upload_process import tracked_stage\n"
        "with tracked_stage('pack', PackConfig()) as run:\n"
        "    run.metrics({'images': 1})\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ.copy())
    [outbox] = Path("state/tracking").iterdir()
    assert json.loads((outbox / "run.json").read_text())["stage"] == "pack"
    store = connect()
    assert len(store.client.search_runs([store.experiment_id])) == 1


def test_settings_become_text():
    params = flat_params(PackConfig(max_images=5))
    assert params["max_images"] == "5" and params["subset"] == ""
