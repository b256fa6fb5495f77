"""What the tracking server holds of a training, by any name a person has for it."""

import re
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError, TrackingError
from sg3flow.provenance.files import DIFF, PACKAGES, PROJECT_FILES, PROVENANCE
from sg3flow.reproduction.record import Record, read_record
from sg3flow.tracking.models import MODEL_TYPE, SHA256_TAG
from sg3flow.tracking.store import Store, connect, tracking_errors

_FILES = ("run.json", PROVENANCE, DIFF, PACKAGES, *PROJECT_FILES)
_MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
_MOST_SHOWN = 5


def find_record(run: str, scratch: Path) -> Record:
    """The record of a training: of a run folder where it stands, of any other name from the server.

    Args:
        run: a run folder, or what ``download_record`` takes.
        scratch: a folder to download into.

    Raises:
        TrackingError, DataError: as ``download_record``.
    """
    folder = Path(run).expanduser()
    if (folder / "run.json").is_file():
        return read_record(folder.resolve(), origin=run)
    if folder.is_dir():
        raise DataError(f"{run} is no run folder: it holds no run.json")
    return download_record(run, scratch)


def download_record(run: str, folder: Path) -> Record:
    """Find a training and bring its record into ``folder``.

    Args:
        run: a run id, a run's name, a training's uid, ``NAME@ALIAS``, ``models:/NAME/VERSION`` or
            the name of a DVC experiment.

    Raises:
        TrackingError: there is no such training, or several; or the server does not answer.
        DataError: the run has no record.
    """
    store = connect()
    with tracking_errors(store.uri):
        found = find_training(store, run)
        run_id = found.info.run_id
        present = {artifact.path for artifact in store.client.list_artifacts(run_id)}
        for name in _FILES:
            if name in present:
                store.client.download_artifacts(run_id, name, str(folder))
        digests = _digests(store, found)
    origin = f"run {found.info.run_name} ({run_id})"
    return read_record(folder, digests, origin)


def find_training(store: Store, run: str) -> Any:
    """The MLflow run of a training.

    Raises:
        TrackingError: there is none of that name, or several.
    """
    model = _MODEL.fullmatch(run)
    found = _of_model(store, model) if model else _of_name(store, run)
    if found is None:
        raise TrackingError(
            f"no training '{run}' on the tracking server (see MLFLOW_TRACKING_URI); give a run id, "
            "a run's name, NAME@champion, models:/NAME/VERSION or a run folder"
        )
    return _training_of(store, found)


def _of_model(store: Store, model: "re.Match[str]") -> Any | None:
    name, alias, version = model["name"], model["alias"], model["version"]
    registered = store.client.search_registered_models(f"name = '{_quoted(name)}'")
    if not registered:
        return None
    versions = {v.version: v for v in store.client.search_model_versions(f"name = '{name}'")}
    if alias:
        version = str({**registered[0].aliases}.get(alias, ""))
    found = next((v for number, v in versions.items() if str(number) == version), None)
    return store.client.get_run(found.run_id) if found is not None and found.run_id else None


def _of_name(store: Store, run: str) -> Any | None:
    text = _quoted(run)
    if re.fullmatch("[0-9a-f]{32}", text):
        conditions = ["attributes.run_id = '{}'", "tags.`sg3flow.uid` = '{}'"]
    else:
        training = " AND tags.`sg3flow.stage` = 'train'"
        conditions = ["attributes.run_name = '{}'" + training]
        conditions += ["tags.`sg3flow.dvc_exp` = '{}'" + training]
    experiments = [each.experiment_id for each in store.client.search_experiments()]
    for condition in conditions:
        found = store.client.search_runs(experiments, condition.format(text))
        if len(found) > 1:
            ids = ", ".join(each.info.run_id for each in found[:_MOST_SHOWN])
            raise TrackingError(f"{len(found)} trainings are called '{run}'; give an id: {ids}")
        if found:
            return found[0]
    return None


def _training_of(store: Store, run: Any) -> Any:
    """The run itself, or of a later stage's run the training that it belongs to."""
    if run.data.tags.get("sg3flow.stage") == "train":
        return run
    parent = run.data.tags.get("mlflow.parentRunId")
    training = store.client.get_run(parent) if parent else None
    if training is None or training.data.tags.get("sg3flow.stage") != "train":
        raise TrackingError(f"run {run.info.run_name} ({run.info.run_id}) is no training's")
    return training


def _digests(store: Store, run: Any) -> dict[str, str]:
    wanted = f"source_run_id = '{run.info.run_id}' AND model_type = '{MODEL_TYPE}'"
    models = store.client.search_logged_models([run.info.experiment_id], wanted)
    tags = [model.tags for model in models]
    return {tag["sg3flow.snapshot"]: tag[SHA256_TAG] for tag in tags if SHA256_TAG in tag}


def _quoted(text: str) -> str:
    """``text`` between single quotes in a search: MLflow knows no escape, so none may be in it."""
    if "'" in text:
        raise TrackingError(f"no training is called {text}: a name has no quotes")
    return text
