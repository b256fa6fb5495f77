"""What people read of a run in MLflow: its parent, its description, its table, the saved view."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sg3flow.compare.tracked_source import read_tracked
from sg3flow.config import EvaluateConfig, FetchConfig
from sg3flow.files import sha256_file, write_json
from sg3flow.runs import pipeline
from sg3flow.tracking import run_notes, saved_view
from sg3flow.tracking.evaluation_record import record_evaluation
from sg3flow.tracking.event_upload import send_event
from sg3flow.tracking.mlflow_store import connect, training_run_id
from sg3flow.tracking.outbox import Outbox
from sg3flow.tracking.run_notes import NOTE, table, write_note
from sg3flow.tracking.saved_view import update_view
from sg3flow.tracking.tracked_runs import find_training
from sg3flow.tracking.upload_process import recorded, sync_folder, tracked_stage
from sg3flow.tracking.uploader import Uploader

UID = "12" * 16


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Nothing is sent by processes beside the stages: they take seconds to start."""
    monkeypatch.setenv("SG3FLOW_TRACKING", "off")


@pytest.fixture
def in_pipeline(monkeypatch):
    """Stages that run now belong to one execution of the pipeline."""
    monkeypatch.setattr("sg3flow.tracking.outbox.pipeline_uid", lambda: UID)


def parents() -> dict[str, str | None]:
    """The name of the parent's run, by name of a run."""
    store = connect()
    runs = store.client.search_runs([store.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return {run.info.run_name: names.get(run.data.tags.get("mlflow.parentRunId")) for run in runs}


def fetched() -> Path:
    with tracked_stage("fetch", FetchConfig(dataset="starter"), set_name="starter"):
        pass
    [outbox] = Path("state/tracking").glob("*-fetch-*")
    return outbox


def trained(own_project: Path, write_run_folder) -> Path:
    return write_run_folder(own_project / "state" / "0123456789ab" / "run")


def test_the_stages_before_a_training_come_into_its_run(own_project, in_pipeline, write_run_folder):
    outbox = fetched()
    Uploader(outbox).send()
    assert parents() == {"fetch · starter": None}
    Uploader(trained(own_project, write_run_folder)).send()
    assert parents() == {"fetch · starter": "a-run", "a-run": None}
    list(sync_folder(Path("state")))
    assert parents() == {"fetch · starter": "a-run", "a-run": None}


def test_a_replay_in_any_order_gives_the_same_parents(own_project, in_pipeline, write_run_folder):
    fetched()
    trained(own_project, write_run_folder)
    assert all(line.endswith("all sent") for line in sync_folder(Path("state")))
    assert parents() == {"fetch · starter": "a-run", "a-run": None}


def test_a_training_by_hand_is_a_run_of_its_own(own_project, monkeypatch, write_run_folder):
    monkeypatch.setattr("sg3flow.tracking.outbox.pipeline_uid", lambda: UID)
    fetched()
    monkeypatch.setattr("sg3flow.tracking.outbox.pipeline_uid", lambda: "")
    run = trained(own_project, write_run_folder)
    with tracked_stage("evaluate", EvaluateConfig(metrics=("fid",)), training_run=run):
        pass
    list(sync_folder(Path("state")))
    assert parents() == {"fetch · starter": None, "a-run": None, "evaluate · set": "a-run"}


def test_a_training_that_another_execution_resumes_belongs_to_both(
    own_project, monkeypatch, write_run_folder
):
    monkeypatch.setattr("sg3flow.tracking.outbox.pipeline_uid", lambda: UID)
    run = trained(own_project, write_run_folder)
    monkeypatch.setattr("sg3flow.tracking.outbox.pipeline_uid", lambda: "34" * 16)
    fetched()
    with recorded(Outbox(run)):
        pass
    list(sync_folder(Path("state")))
    assert parents() == {"fetch · starter": "a-run", "a-run": None}


def test_a_line_without_a_pipeline_is_of_an_earlier_version(run_folder):
    rows = (run_folder / "events.jsonl").read_text()
    assert '"pipeline": ""' in rows
    (run_folder / "events.jsonl").write_text(rows.replace(', "pipeline": ""', ""))
    Uploader(run_folder).send()
    assert parents() == {"a-run": None}


_ASK = "import sys; from sg3flow.runs.pipeline import pipeline_uid; print(pipeline_uid())"
_STAGES = f"""
import os, subprocess, sys
for stage in ("fetch", "train"):
    own = os.environ | {{"DVC_STAGE": stage}}
    command = ["sh", "-c", '"$0" "$@"; true', sys.executable, "-c", {_ASK!r}]
    subprocess.run(command, env=own, check=True)
"""


def test_the_stages_of_one_dvc_process_have_one_uid(monkeypatch):
    """Each in a shell of its own, as DVC starts them; two executions have two."""
    own = os.environ | {"DVC_EXP_NAME": "rusty"}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _STAGES], env=own, check=True, capture_output=True, text=True
        )
        first, second = done.stdout.split()
        assert first == second and len(first) == 32
        found.append(first)
    assert found[0] != found[1]
    assert pipeline.pipeline_uid() == "", "by hand"
    monkeypatch.setenv("DVC_STAGE", "train")
    assert pipeline.pipeline_uid()
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    assert pipeline.pipeline_uid() == "", "the run of `mlflow run` is the parent"


def test_a_run_is_found_by_its_name_as_one_types_it(run_folder):
    described = json.loads((run_folder / "run.json").read_text())
    write_json(run_folder / "run.json", described | {"name": "gamma 0.5 · t16 · Cats"})
    Uploader(run_folder).send()
    found = find_training(connect(), "gamma 0.5 t16 cats")
    assert found.info.run_name == "gamma 0.5 · t16 · Cats"


def evaluate(run_folder: Path, value: float = 4.0) -> None:
    """An evaluation of a training's snapshot, as the stage reports it."""
    [snapshot] = run_folder.glob("*.pkl")
    row = {"snapshot": snapshot.name, "kimg": 3, "metric": "fid50k", "value": value}
    row |= {"higher_is_better": False, "network_sha256": sha256_file(snapshot)}
    row |= {"reference_sha256": "r", "detector_sha256": "d", "standard_error": 0.25}
    kid = row | {"metric": "kid50k", "value": 0.5, "num_generated": 9}
    report = {"format": "sg3flow-metrics-1", "best": {"metric": "fid50k"}, "results": [row, kid]}
    write_json(Path("metrics.json"), report)
    with tracked_stage("evaluate", EvaluateConfig(metrics=("fid50k",)), run_folder) as stage:
        values = {"kid50k": 0.5, "fid50k": value}
        stage.training_metrics({"fid50k": 9.0, "kid50k": 0.7}, 0, snapshot="first.pkl")
        stage.training_metrics(values, 3, snapshot=snapshot.name)
        record_evaluation(stage, run_folder, Path("metrics.json"))
    for outbox in Path("state/tracking").glob("*-evaluate-*"):
        Uploader(outbox).send()


def test_an_evaluation_describes_the_best_snapshot(run_folder):
    Uploader(run_folder).send()
    store, run_id = connect(), training_run_id(run_folder)
    before = store.client.get_run(run_id).data.tags[NOTE]
    assert "| **data** | set: 3 images; digest `abababababab` |" in before
    assert "Best snapshot" not in before
    evaluate(run_folder)
    run = store.client.get_run(run_id)
    note = run.data.tags[NOTE]
    assert "| fid50k | 4 ± 0.25 |  |\n| kid50k | 0.5 ± 0.25 | 9 |" in note
    line = "| **best** | fid50k 4 ± 0.25 at 3 kimg |\n"
    assert note.startswith(before.replace("| **data**", f"{line}| **data**"))
    assert "**Best snapshot** network-snapshot-000003.pkl at 3 kimg, by fid50k" in note
    assert f"![samples of the best snapshot](get-artifact?path=eval%2Fbest.png&run_uuid={run_id})"
    picture = store.client.download_artifacts(run_id, "eval/best.png")
    with Image.open(picture) as image:
        assert image.getpixel((0, 0)) == (3, 0, 0), "the grid of that snapshot"
    content = json.loads(
        Path(store.client.download_artifacts(run_id, "eval/snapshots.json")).read_text()
    )
    assert content == {
        "columns": ["kimg", "fid50k", "kid50k", "best", "snapshot"],
        "data": [
            [0, 9.0, 0.7, False, "first.pkl"],
            [3, 4.0, 0.5, True, "network-snapshot-000003.pkl"],
        ],
    }
    tables = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert tables == [{"path": "eval/snapshots.json", "type": "table"}]
    evaluate(run_folder, 3.0)
    run = store.client.get_run(run_id)
    assert "| fid50k | 3 ± 0.25 |" in run.data.tags[NOTE]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == tables


def test_a_description_that_somebody_edited_stays(run_folder):
    Uploader(run_folder).send()
    store, run_id = connect(), training_run_id(run_folder)
    store.client.set_tag(run_id, NOTE, "mine")
    evaluate(run_folder)
    Uploader(run_folder).send()
    write_note(store, run_id)
    assert store.client.get_run(run_id).data.tags[NOTE] == "mine"


def test_metrics_of_a_snapshot_name_its_data_set(run_folder):
    Uploader(run_folder).send()
    evaluate(run_folder)
    store = connect()
    models = store.client.search_logged_models([store.experiment_id])
    [model] = [each for each in models if each.name == "network-snapshot-000003"]
    [metric] = [each for each in model.metrics if each.key == "metrics/fid50k"]
    assert (metric.value, metric.dataset_name, metric.dataset_digest) == (4.0, "set", "ab" * 8)


def test_a_folder_without_a_grid_has_a_description_without_a_picture(run_folder):
    for grid in run_folder.glob("fakes*.png"):
        grid.write_bytes(b"damaged")
    (run_folder / "events.jsonl").write_text("")  # the damaged images
    Uploader(run_folder).send()
    evaluate(run_folder)
    note = connect().client.get_run(training_run_id(run_folder)).data.tags[NOTE]
    assert "Best snapshot" in note and "![" not in note


def test_a_cell_of_a_table_is_one_cell():
    text = table(("a", "b"), [("x|y", "two\nlines")])
    assert text == "| a | b |\n| --- | --- |\n| x\\|y | two lines |"


def view(store) -> dict:
    tags = store.client.get_experiment(store.experiment_id).tags
    return json.loads(tags["mlflow.sharedViewState.sg3flow"])


def test_the_view_of_an_experiment_shows_the_metrics_that_there_are(run_folder):
    Uploader(run_folder).send()
    store = connect()
    first = json.loads(view(store)["state"])
    assert first["selectedColumns"] == ["params.`gamma`", "params.`kimg`"]
    assert [each["name"] for each in first["compareRunSections"]][:2] == ["metrics", "loss"]
    evaluate(run_folder)
    found = view(store)
    columns = json.loads(found["state"])["selectedColumns"]
    assert columns[:2] == ["metrics.`metrics/fid50k`", "metrics.`metrics/kid50k`"]
    order = json.loads(found["state"])["columnOrder"]
    assert order == ["attributes.`Run Name`", *columns]
    assert isinstance(found["createdAt"], int) and found["name"] == "sg3flow trainings"
    update_view(store, training_run_id(run_folder), ["ppl", "fid50k", *map(str, range(9))])
    columns = json.loads(view(store)["state"])["selectedColumns"]
    assert columns[2:4] == ["metrics.`metrics/ppl`", "metrics.`metrics/0`"] and len(columns) == 7


@pytest.mark.parametrize("edit", [lambda known: known | {"name": "mine"}, lambda known: [1]])
def test_a_view_that_somebody_edited_stays(run_folder, edit):
    Uploader(run_folder).send()
    store = connect()
    text = json.dumps(edit(view(store)))
    store.client.set_experiment_tag(store.experiment_id, saved_view._TAG, text)
    evaluate(run_folder)
    assert store.client.get_experiment(store.experiment_id).tags[saved_view._TAG] == text


def test_a_run_of_an_earlier_version_keeps_its_names_of_metrics(run_folder):
    """Its curves are not cut in two, and a comparison reads both kinds of names."""
    Uploader(run_folder).send()
    store, run_id = connect(), training_run_id(run_folder)
    store.client.delete_tag(run_id, "sg3flow.grouped_metrics")
    store.client.log_metric(run_id, "Loss/D/loss", 7.0, step=0, timestamp=int(time.time() * 1e3))
    row = {"Loss/D/loss": {"num": 1, "mean": 0.5, "std": 0}, "nimg": 9000, "timestamp": time.time()}
    with (run_folder / "stats.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    Uploader(run_folder).send()
    evaluate(run_folder)
    metrics = store.client.get_run(run_id).data.metrics
    assert metrics["Loss/D/loss"] == 0.5 and metrics["fid50k"] == 4.0
    assert "metrics/fid50k" not in metrics and metrics["loss/D"] == 1.0
    data = read_tracked(run_id, "", Path(os.environ.get("TMPDIR", "/tmp")))
    points = {point.kimg: point.value for point in data.curves["Loss/D/loss"]}
    assert points == {0.0: 7.0, 1.0: 1.0, 2.0: 1.0, 3.0: 1.0, 9.0: 0.5}
    assert "loss/D" not in data.curves and "fid50k" in data.trained


def test_an_unknown_event_is_left_alone(run_folder):
    """A journal of a later version."""
    send_event(None, {"kind": "from the future"})  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", ["[", "[1]", "", None])
def test_the_profile_of_another_tool_is_no_error(profile):
    assert run_notes._profile(SimpleNamespace(profile=profile)) == {}
