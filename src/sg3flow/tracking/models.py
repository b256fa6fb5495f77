"""Snapshots as MLflow LoggedModels, so that each carries its own metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sg3flow.files import sha256_file
from sg3flow.tracking.store import Store, time_to_upload

MODEL_TYPE = "checkpoint"
SHA256_TAG = "sg3flow.sha256"
_PAGE = 50  # a server gives no more at once


def snapshot_model(store: Store, run_id: str, snapshot: str, kimg: int) -> str:
    """The LoggedModel of a snapshot file of a run, made if it is missing.

    Its metrics may come before its file does.
    """
    known = _first_model(store, run_id, snapshot)
    if known is not None:
        return known
    made = store.client.create_logged_model(
        store.experiment_id,
        name=Path(snapshot).stem,
        source_run_id=run_id,
        tags={"sg3flow.snapshot": snapshot},
        params={"kimg": str(kimg)},
        model_type=MODEL_TYPE,
    )
    # Again: a request that was given up as lost may have been answered meanwhile.
    return _first_model(store, run_id, snapshot) or str(made.model_id)


def log_snapshot_model(store: Store, run_id: str, path: Path, kimg: int) -> str:
    """Make the LoggedModel of a snapshot with its file; one that holds these bytes stays as it is.

    A resumed training writes the snapshots since its last state again, on a GPU with other bytes.
    """
    from mlflow.entities import LoggedModelStatus

    model_id, digest = snapshot_model(store, run_id, path.name, kimg), sha256_file(path)
    model = store.client.get_logged_model(model_id)
    if model.status == LoggedModelStatus.READY and model.tags.get(SHA256_TAG) == digest:
        return model_id
    note_output(store, run_id, model_id, kimg)
    with time_to_upload(path):
        store.client.log_model_artifact(model_id, str(path))
    # Last: whoever reads it, a delivery that was cut off too, may rely on it.
    store.client.set_logged_model_tags(model_id, {SHA256_TAG: digest})
    store.client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def note_output(store: Store, run_id: str, model_id: str, kimg: int) -> None:
    """Note a LoggedModel as an output of a run; MLflow refuses to note it a second time."""
    from mlflow.entities import LoggedModelOutput

    outputs = store.client.get_run(run_id).outputs
    if model_id not in [output.model_id for output in outputs.model_outputs]:
        store.client.log_outputs(run_id, [LoggedModelOutput(model_id, kimg)])


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
    """Delete the LoggedModels of an MLflow run that is a second one of its training."""
    for model in list(snapshot_models(store, run)):
        store.client.delete_logged_model(model.model_id)


def _first_model(store: Store, run_id: str, snapshot: str) -> str | None:
    """The LoggedModel of a snapshot; of two, the one made first, and the other is deleted."""
    wanted = f"source_run_id = '{run_id}' AND tags.`sg3flow.snapshot` = '{snapshot}'"
    found = store.client.search_logged_models([store.experiment_id], wanted)
    models = sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))
    for model in models[1:]:
        store.client.delete_logged_model(model.model_id)
    return str(models[0].model_id) if models else None
