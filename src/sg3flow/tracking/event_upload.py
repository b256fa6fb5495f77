"""Sends one event of a run folder to MLflow; sending an event twice adds nothing."""

import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag

from sg3flow.errors import TrackingError, TrainingMissingError, cut
from sg3flow.files import sha256_file
from sg3flow.runs.best_snapshot import BestSnapshot
from sg3flow.runs.run_folder import EVENTS
from sg3flow.settings import Tag
from sg3flow.tracking.artifact_files import link_artifact, remove_artifact
from sg3flow.tracking.metric_names import grouped_name
from sg3flow.tracking.mlflow_store import Store, experiment_of, time_to_upload
from sg3flow.tracking.pipeline_runs import join_pipeline
from sg3flow.tracking.run_notes import write_note
from sg3flow.tracking.saved_view import update_view


@dataclass(frozen=True)
class Target:
    """Where the events of a run folder go.

    Attributes:
        folder: the run folder.
        run_id: the run of that folder.
        training_id: its training run; None: the server does not have that yet.
        training_name: name of the training run, for messages.
        stage: the stage that wrote the folder.
    """

    store: Store
    folder: Path
    run_id: str
    training_id: str | None
    training_name: str
    stage: str = "train"
    _runs: dict[str, Any] = field(default_factory=dict)

    def run(self, run_id: str) -> Any:
        """A run as it was when first asked for: what does not change in it."""
        if run_id not in self._runs:
            self._runs[run_id] = self.store.client.get_run(run_id)
        return self._runs[run_id]

    def of(self, row: Mapping[str, Any]) -> str:
        """The run that an event belongs to.

        Raises:
            TrainingMissingError: it is the training run, which the server does not have.
        """
        if row.get("on") != "training":
            return self.run_id
        if self.training_id is None:
            raise TrainingMissingError(
                f"the training run {self.training_name} is not on the server yet: run `sg3flow "
                "sync FOLDER` with its folder, for example runs/train"
            )
        return self.training_id


def send_event(target: Target, row: Mapping[str, Any]) -> None:
    """Send an event, a line of ``events.jsonl``.

    Raises:
        TrainingMissingError: the server does not have the training run that it belongs to.
        Exception: any error of the client.
    """
    handler = _HANDLERS.get(row["kind"])
    if handler is not None:  # the end makes the run's status, which is sent separately
        handler(target, row)


def _tags(target: Target, row: Mapping[str, Any]) -> None:
    from mlflow.entities import RunTag

    tags = [RunTag(key, str(value)) for key, value in row["values"].items()]
    target.store.client.log_batch(target.of(row), tags=tags)


def _parent(target: Target, row: Mapping[str, Any]) -> None:
    parent_id = target.of({"on": "training"})
    target.store.client.set_tag(target.run_id, "mlflow.parentRunId", parent_id)


def _metric(target: Target, row: Mapping[str, Any]) -> None:
    run_id, kimg = target.of(row), row["nimg"] // 1000
    snapshot = row["file"]
    more: dict[str, Any] = {}
    if snapshot:
        model_id = snapshot_model(target.store, run_id, snapshot, kimg)
        more = {"model_id": model_id} | dataset_of(target.run(run_id))
    name = row["key"]
    if Tag.GROUPED in target.run(run_id).data.tags:
        name = grouped_name(name, target.stage if run_id == target.run_id else "train")
    target.store.client.log_metric(
        run_id, name, row["value"], timestamp=_time_ms(row), step=kimg, **more
    )


def dataset_of(run: Any) -> dict[str, str]:
    """The data set of a run, as arguments of ``log_metric``; none: the run has none."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if not inputs:
        return {}
    dataset = inputs[0].dataset
    return {"dataset_name": dataset.name, "dataset_digest": dataset.digest}


def _file_of(target: Target, row: Mapping[str, Any]) -> Path:
    """The file of an event; the run folder may be a copy from elsewhere, so it must be inside."""
    name = PurePosixPath(str(row["file"]))
    if name.is_absolute() or ".." in name.parts:
        raise TrackingError(
            f"{target.folder / EVENTS} names '{cut(str(name))}', which is outside of the run's "
            "folder; delete that line to continue"
        )
    return target.folder / name


def _image(target: Target, row: Mapping[str, Any]) -> None:
    path, run_id = _file_of(target, row), target.of(row)
    if path.is_file():
        with time_to_upload(path):
            kimg = row["nimg"] // 1000
            log_image(target.store.client, run_id, path, row["key"], kimg, _time_ms(row))


def _snapshot(target: Target, row: Mapping[str, Any]) -> None:
    path = _file_of(target, row)
    if path.is_file():
        log_snapshot_model(target.store, target.of(row), path, row["nimg"] // 1000)


def _pruned(target: Target, row: Mapping[str, Any]) -> None:
    """Remove a snapshot that the run folder no longer keeps from a local store; a server keeps it.

    In the default store it is the same file, which takes space until its last name is gone.
    """
    model_id = _first_model(target.store, target.of(row), row["file"])
    if model_id is None:
        return
    model = target.store.client.get_logged_model(model_id)
    is_same = model.tags.get(Tag.SHA256) == row["sha256"]  # else it was trained again since
    if is_same and remove_artifact(model.artifact_location, _file_of(target, row).name):
        target.store.client.set_logged_model_tags(model_id, {Tag.PRUNED: "true"})


def _artifact(target: Target, row: Mapping[str, Any]) -> None:
    path, run_id = _file_of(target, row), target.of(row)
    if path.is_file():  # else it was deleted meanwhile
        with time_to_upload(path):
            target.store.client.log_artifact(run_id, str(path), row["key"] or None)


def _dataset(target: Target, row: Mapping[str, Any]) -> None:
    log_dataset(target.store.client, target.of(row), **row["values"])


def _begin(target: Target, row: Mapping[str, Any]) -> None:
    if row.get("pipeline"):  # older folders lack it
        join_pipeline(target.store, target.run_id, target.stage, row["pipeline"])


def _table(target: Target, row: Mapping[str, Any]) -> None:
    """Name an artifact as a table, for MLflow's view of tables."""
    run_id, path = target.of(row), row["values"]["path"]
    known = json.loads(target.store.client.get_run(run_id).data.tags.get(_TABLES) or "[]")
    entry = {"path": path, "type": "table"}
    if entry not in known:
        target.store.client.set_tag(run_id, _TABLES, json.dumps([*known, entry]))


def _best(target: Target, row: Mapping[str, Any]) -> None:
    run_id, best = target.of(row), row["values"]
    write_note(target.store, run_id, best)
    names = sorted(best["results"], key=lambda name: name != best["metric"])
    update_view(target.store, run_id, names)


def _time_ms(row: Mapping[str, Any]) -> int:
    # The time in the file identifies the point: sending it again adds nothing.
    return int(row.get("timestamp", 0) * 1000)


_TABLES = "mlflow.loggedArtifacts"

_HANDLERS = {
    "begin": _begin,
    "table": _table,
    "best": _best,
    "tags": _tags,
    "parent": _parent,
    "metric": _metric,
    "image": _image,
    "snapshot": _snapshot,
    "pruned": _pruned,
    "artifact": _artifact,
    "dataset": _dataset,
}


class PackedSetDataset(MetaDataset):  # type: ignore[misc]  # mlflow's classes are untyped here
    """Metadata of a packed set: name, digest, source, and counts as its profile."""

    def __init__(self, source: Any, name: str, digest: str, profile: Mapping[str, Any]) -> None:
        self._profile_values = dict(profile)
        super().__init__(source, name=name, digest=digest)

    def to_dict(self) -> dict[str, str]:
        """The fields that MLflow stores."""
        profile = json.dumps(self._profile_values, sort_keys=True)
        return {**super().to_dict(), "profile": profile}


def log_dataset(
    client: Any, run_id: str, *, name: str, digest: str, source: str, profile: Mapping[str, Any]
) -> None:
    """Attach a data set to a run; attaching it twice adds nothing."""
    from mlflow.data.code_dataset_source import CodeDatasetSource

    # MLflow keeps at most 36 characters of a digest.
    dataset = PackedSetDataset(CodeDatasetSource({Tag.SOURCE: source}), name, digest[:16], profile)
    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [context])])


_FOLDER = "images"  # where MLflow keeps the images of the slider
_THUMBNAIL_SIDE = 256


def log_image(client: Any, run_id: str, path: Path, key: str, kimg: int, time_ms: int) -> None:
    """Add an image to the run's step slider ``key``; adding it twice adds nothing.

    MLflow's ``log_image`` chooses a random name at each call, so a repeated upload would appear
    twice. Here the name derives from run, key, step and time.

    Args:
        time_ms: when the image was made; part of the name that MLflow expects.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES
    from PIL import Image

    mark = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{key}/{kimg}/{time_ms}")
    name = f"{key.replace('/', '~')}+step+{kimg}+timestamp+{time_ms}+{mark}"
    address = client.get_run(run_id).info.artifact_uri
    with tempfile.TemporaryDirectory() as folder, Image.open(path) as image:
        full, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
        is_png = image.format == "PNG"
        if not (is_png and link_artifact(address, f"{_FOLDER}/{full.name}", path)):
            if is_png:
                shutil.copyfile(path, full)
            else:
                image.save(full)
            client.log_artifact(run_id, str(full), _FOLDER)
        image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        image.save(small)
        client.log_artifact(run_id, str(small), _FOLDER)
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, True)


MODEL_TYPE = "checkpoint"
_PAGE = 50  # the limit of a server


def snapshot_model(store: Store, run_id: str, snapshot: str, kimg: int) -> str:
    """The LoggedModel of a snapshot of a run, created if it is missing.

    Metrics of a snapshot may be sent before its file.
    """
    known = _first_model(store, run_id, snapshot)
    if known is not None:
        return known
    made = store.client.create_logged_model(
        experiment_of(store, run_id),
        name=Path(snapshot).stem,
        source_run_id=run_id,
        tags={Tag.SNAPSHOT: snapshot},
        params={"kimg": str(kimg)},
        model_type=MODEL_TYPE,
    )
    # Look again: an earlier request that timed out may have succeeded meanwhile.
    return _first_model(store, run_id, snapshot) or str(made.model_id)


def log_snapshot_model(store: Store, run_id: str, path: Path, kimg: int) -> str:
    """Upload a snapshot to its LoggedModel, unless that has the same bytes already.

    A resumed training writes the snapshots since its last state again, on a GPU with other bytes.
    A local store gets a link: the run folder's snapshots are replaced as a whole.
    """
    from mlflow.entities import LoggedModelStatus

    model_id, digest = snapshot_model(store, run_id, path.name, kimg), sha256_file(path)
    model = store.client.get_logged_model(model_id)
    if model.status == LoggedModelStatus.READY and model.tags.get(Tag.SHA256) == digest:
        return model_id
    record_output(store, run_id, model_id, kimg)
    if not link_artifact(model.artifact_location, path.name, path):
        with time_to_upload(path):
            store.client.log_model_artifact(model_id, str(path))
    # Last: the tag means that the upload is complete.
    store.client.set_logged_model_tags(model_id, {Tag.SHA256: digest})
    store.client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def record_output(store: Store, run_id: str, model_id: str, kimg: int) -> None:
    """Record a LoggedModel as an output of a run, once: MLflow refuses a second time."""
    from mlflow.entities import LoggedModelOutput

    outputs = store.client.get_run(run_id).outputs
    if model_id not in [output.model_id for output in outputs.model_outputs]:
        store.client.log_outputs(run_id, [LoggedModelOutput(model_id, kimg)])


def log_model_metrics(store: Store, run_id: str, model_id: str, best: BestSnapshot) -> None:
    """Log the results of a snapshot to a LoggedModel, once, with the data set of its run.

    The points are those that the run has already, if it has them: so its curves do not change.
    """
    run, model = store.client.get_run(run_id), store.client.get_logged_model(model_id)
    known = {(metric.key, metric.value) for metric in model.metrics or []}
    for name, row in best.results.items():
        key = grouped_name(name) if Tag.GROUPED in run.data.tags else name
        value = float(row["value"])
        if (key, value) in known:
            continue
        points = store.client.get_metric_history(run_id, key) if key in run.data.metrics else []
        times = [p.timestamp for p in points if (p.step, p.value) == (best.kimg, value)]
        more = {"model_id": model_id} | dataset_of(run)
        store.client.log_metric(
            run_id, key, value, timestamp=max(times, default=None), step=best.kimg, **more
        )


def snapshot_models(store: Store, run: Any) -> Iterator[Any]:
    """The LoggedModels of all snapshots of an MLflow run."""
    wanted = f"source_run_id = '{run.info.run_id}' AND model_type = '{MODEL_TYPE}'"
    token = None
    while True:
        page = store.client.search_logged_models(
            [run.info.experiment_id], wanted, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def delete_snapshot_models(store: Store, run: Any) -> None:
    """Delete the LoggedModels of an MLflow run that is a duplicate."""
    for model in list(snapshot_models(store, run)):
        store.client.delete_logged_model(model.model_id)


def _first_model(store: Store, run_id: str, snapshot: str) -> str | None:
    """The LoggedModel of a snapshot; of duplicates the first one, and the others are deleted."""
    wanted = f"source_run_id = '{run_id}' AND tags.`{Tag.SNAPSHOT}` = '{snapshot}'"
    found = store.client.search_logged_models([experiment_of(store, run_id)], wanted)
    models = sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))
    for model in models[1:]:
        store.client.delete_logged_model(model.model_id)
    return str(models[0].model_id) if models else None
