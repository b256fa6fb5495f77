"""The error terms of a registered version: files of its model, one per metric.

They are written after the version exists, and again if it is measured again: a tag with the digest
of each says which are there.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sg3flow.files import write_bytes
from sg3flow.metrics.error_terms import Stored, Terms, digest_of, from_npy, npy_bytes
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import (
    Store,
    find_version,
    open_registry,
    results_of,
    tracking_errors,
)

FOLDER = "error_terms"


def upload_terms(store: Store, version: Any, rows: Mapping[str, Any], terms: Terms) -> None:
    """Add the error terms of rows to the model of a version, except those that it has.

    Args:
        rows: rows of ``reports/evaluation.json`` by metric.
        terms: by digest; rows without known terms are left out.
    """
    known = _recorded(version)
    new = {
        metric: terms[row["error_terms"]]
        for metric, row in rows.items()
        if row.get("error_terms") in terms and known.get(metric) != row["error_terms"]
    }
    if not new:
        return
    with tempfile.TemporaryDirectory() as folder:
        for metric, values in new.items():
            write_bytes(Path(folder) / f"{metric}.npy", npy_bytes(values))
        store.client.log_model_artifacts(_model_id(version), folder, FOLDER)
    text = json.dumps(known | {metric: digest_of(values) for metric, values in new.items()})
    store.client.set_model_version_tag(version.name, str(version.version), Tag.ERROR_TERMS, text)


def terms_of_version(
    store: Store, version: Any, metrics: Iterable[str] | None = None
) -> dict[str, Stored]:
    """The error terms of a version by digest; without those of older versions.

    Args:
        metrics: names of the values; None: of all.
    """
    recorded, rows = _recorded(version), results_of(version)
    wanted = [
        metric
        for metric in (rows if metrics is None else metrics)
        if metric in recorded and recorded[metric] == rows.get(metric, {}).get("error_terms")
    ]
    if not wanted:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        found = [_download(store, version, metric, Path(folder)) for metric in wanted]
    return {digest_of(values): values for values in found if values is not None}


def read_version_terms(uri: str) -> dict[str, Stored]:
    """The error terms of the version at ``models:/NAME/NUMBER`` by digest.

    Raises:
        TrackingError: there is no such version, or the server does not answer.
    """
    name, _, number = uri.removeprefix("models:/").rpartition("/")
    store = open_registry()
    with tracking_errors(store.uri):
        return terms_of_version(store, find_version(store, name, number))


def _download(store: Store, version: Any, metric: str, folder: Path) -> Stored | None:
    import mlflow

    name = f"{FOLDER}/{metric}.npy"
    listed = store.client.list_logged_model_artifacts(_model_id(version), FOLDER)
    if name not in {each.path for each in listed}:
        return None
    # By the version: MLflow takes models:/m-ID for the whole model only.
    uri = f"models:/{version.name}/{version.version}/{name}"
    path = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    return from_npy(path.read_bytes())


def _recorded(version: Any) -> dict[str, str]:
    """The digests in the tag of a version, by metric."""
    try:
        content = json.loads(version.tags.get(Tag.ERROR_TERMS) or "{}")
    except ValueError:
        return {}
    if not isinstance(content, dict) or not version.source.startswith("models:/"):
        return {}
    return {str(metric): str(digest) for metric, digest in content.items()}


def _model_id(version: Any) -> str:
    return str(version.source).removeprefix("models:/")
