"""Snapshots as MLflow LoggedModels, so that each carries its own metrics."""

from pathlib import Path

from sg3flow.files import sha256_file
from sg3flow.tracking.store import Store

MODEL_TYPE = "checkpoint"
SHA256_TAG = "sg3flow.sha256"


def find_snapshot_model(store: Store, run_id: str, snapshot: str) -> str | None:
    """The LoggedModel of a snapshot file of a run, or None."""
    found = store.client.search_logged_models(
        [store.experiment_id],
        f"source_run_id = '{run_id}' AND tags.`sg3flow.snapshot` = '{snapshot}'",
        max_results=1,
    )
    return str(found[0].model_id) if found else None


def log_snapshot_model(store: Store, run_id: str, path: Path, kimg: int) -> str:
    """Make the LoggedModel of a snapshot with its file; one that is whole is left as it is."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    known = find_snapshot_model(store, run_id, path.name)
    if known is not None:
        model = store.client.get_logged_model(known)
        if model.status == LoggedModelStatus.READY:
            return known
    else:
        model = store.client.create_logged_model(
            store.experiment_id,
            name=path.stem,
            source_run_id=run_id,
            tags={"sg3flow.snapshot": path.name, SHA256_TAG: sha256_file(path)},
            params={"kimg": str(kimg)},
            model_type=MODEL_TYPE,
        )
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, kimg)])
    store.client.log_model_artifact(model.model_id, str(path))
    store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)
