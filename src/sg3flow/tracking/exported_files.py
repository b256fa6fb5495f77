"""Logs an exported file to the run that its network comes from, and tags the registered version."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sg3flow.errors import Sg3flowError, TrackingError
from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import (
    find_version,
    open_registry,
    time_to_upload,
    tracking_errors,
)
from sg3flow.tracking.tracked_runs import split_version

FOLDER = "exports"

_RUN = re.compile(r"runs:/+([^/]+)/.+")
_LOGGED_MODEL = re.compile(r"models:/+(m-[0-9a-f]+)")


class Exported(Protocol):
    """What is recorded of an exported file."""

    @property
    def path(self) -> Path: ...
    @property
    def form(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Origin:
    """Where a network is in MLflow.

    Attributes:
        address: of the network; an alias is resolved, so that it stays the same version.
        run_id: the run that made it.
        version: name and number of the registered version; None: it is none.
    """

    address: str
    run_id: str
    version: tuple[str, str] | None = None


def find_origin(source: str) -> Origin | None:
    """Where ``source`` is in MLflow; None: it is no address of MLflow, or no run is recorded.

    Raises:
        TrackingError, ConfigError: there is no such model, version or alias, or the server does
            not answer.
    """
    if run := _RUN.fullmatch(source):
        return Origin(source, run[1])
    named = split_version(source) if source.startswith("models:/") else None
    model = _LOGGED_MODEL.fullmatch(source)
    if named is None and model is None:
        return None
    store = open_registry()
    with tracking_errors(store.uri):
        if named is None:
            assert model is not None
            return _with_run(source, store.client.get_logged_model(model[1]).source_run_id)
        found = find_version(store, *named)
        version = (named[0], str(found.version))
        return _with_run("models:/{}/{}".format(*version), _run_of(store, found), version)


def log_export(origin: Origin, exported: Exported) -> str:
    """Log the file below ``exports/`` in the run of its network, and tag its version.

    Returns:
        a sentence that says where it is.

    Raises:
        TrackingError: the server does not take it; the file itself stays.
    """
    store = open_registry()
    artifact = f"runs:/{origin.run_id}/{FOLDER}/{exported.path.name}"
    try:
        with tracking_errors(store.uri), time_to_upload(exported.path):
            store.client.log_artifact(origin.run_id, str(exported.path), FOLDER)
            if origin.version is not None:
                value = {"artifact": artifact, "sha256": exported.sha256}
                tag = Tag.EXPORT + exported.form
                store.client.set_model_version_tag(*origin.version, tag, json.dumps(value))
    except Sg3flowError as error:
        raise TrackingError(
            f"{exported.path} is complete but was not logged: {error}; run the same command "
            "again, or add --no-log"
        ) from error
    tagged = (
        "" if origin.version is None else "; version {1} of {0} has a tag".format(*origin.version)
    )
    return f"logged as {artifact}{tagged}"


def _with_run(address: str, run_id: Any, version: tuple[str, str] | None = None) -> Origin | None:
    return Origin(address, str(run_id), version) if run_id else None


def _run_of(store: Any, version: Any) -> str:
    """The run of a version: its own record, or that of the model that it was made from."""
    model = _LOGGED_MODEL.fullmatch(str(version.source))
    if version.run_id or model is None:
        return str(version.run_id or "")
    return str(store.client.get_logged_model(model[1]).source_run_id or "")
