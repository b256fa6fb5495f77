"""The training that somebody means, by any name a person has for it."""

import re
from collections.abc import Iterator
from typing import Any

from sg3flow.errors import TrackingError, nearest
from sg3flow.tracking.store import Store
from sg3flow.tracking.versions import find_version

_VERSION = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
_ALIAS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)@([A-Za-z][A-Za-z0-9._-]*)")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ID_START = re.compile(r"[0-9a-f]{4,31}")
_PAGE = 1000
_MOST_SHOWN = 6


def split_version(text: str) -> tuple[str, str] | None:
    """Name and number or ``@alias`` of NAME@ALIAS, models:/NAME/3, models:/NAME@ALIAS, or None."""
    if found := _VERSION.fullmatch(text):
        return found[1], found[2] or f"@{found[3]}"
    if found := _ALIAS.fullmatch(text):
        return found[1], f"@{found[2]}"
    return None


def find_training(store: Store, text: str) -> Any:
    """The MLflow run of the one training that a text names.

    Args:
        text: a registered version as ``split_version`` takes it, if no run is called so; a run's
            id with or without ``runs:/``, or the beginning of one; a run's name; the uid in
            ``run.json``; the name of a DVC experiment. The run of a later stage stands for its
            training.

    Raises:
        TrackingError: none or several are called so, or it belongs to no training.
        ConfigError: a model has no such version.
    """
    version = split_version(text)
    if version is not None and not is_run_name(store, text):
        run_id = find_version(store, *version).run_id
        if not run_id:
            raise TrackingError(f"{text} does not say which run made it")
        return _training_of(store, get_run(store, run_id))
    text = text.removeprefix("runs:/")
    is_id = _RUN_ID.fullmatch(text) is not None
    if is_id and (run := _find_run(store, text)) is not None:
        return _training_of(store, run)
    trainings = list(_trainings(store))
    for meaning, found in _candidates(trainings, text):
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(run.info.run_id[:12] for run in found[:_MOST_SHOWN])
            raise TrackingError(
                f"{len(found)} trainings {meaning} {text}; name one by its id: {ids}"
            )
    if is_id:
        raise TrackingError(f"MLflow has no run {text}")
    hint = nearest(text, [str(run.info.run_name) for run in trainings])
    raise TrackingError(
        f"MLflow has no training '{text}'{hint}; give a run id, a run's name, NAME@champion, "
        "models:/NAME/VERSION or a run folder"
    )


def _candidates(trainings: list[Any], text: str) -> Iterator[tuple[str, list[Any]]]:
    """What the text may mean, and the trainings that it then names."""
    yield "have the uid", [run for run in trainings if run.data.tags.get("sg3flow.uid") == text]
    yield "are called", [run for run in trainings if run.info.run_name == text]
    yield (
        "are of the experiment",
        [run for run in trainings if run.data.tags.get("sg3flow.dvc_exp") == text],
    )
    if _ID_START.fullmatch(text):
        yield (
            "have ids that begin with",
            [run for run in trainings if run.info.run_id.startswith(text)],
        )


def is_run_name(store: Store, text: str) -> bool:
    """Whether a training is called so: people name runs as they like, ``cats@night`` say."""
    if _ALIAS.fullmatch(text) is None:
        return False
    wanted = f"tags.`sg3flow.stage` = 'train' AND attributes.run_name = '{text}'"
    return bool(store.client.search_runs(_experiments(store), wanted, max_results=1))


def get_run(store: Store, run_id: str) -> Any:
    """A run by its whole id.

    Raises:
        TrackingError: MLflow does not know it.
    """
    run = _find_run(store, run_id)
    if run is None:
        raise TrackingError(f"MLflow has no run {run_id}")
    return run


def _find_run(store: Store, run_id: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _training_of(store: Store, run: Any) -> Any:
    """The run itself, or of a later stage's run the training that it belongs to."""
    if run.data.tags.get("sg3flow.stage", "train") == "train":
        return run
    parent = run.data.tags.get("mlflow.parentRunId")
    training = get_run(store, parent) if parent else None
    if training is None or training.data.tags.get("sg3flow.stage", "train") != "train":
        raise TrackingError(f"run {run.info.run_name} ({run.info.run_id}) is no training's")
    return training


def _experiments(store: Store) -> list[str]:
    return [str(each.experiment_id) for each in store.client.search_experiments()]


def _trainings(store: Store) -> Iterator[Any]:
    experiments = _experiments(store)
    wanted, token = "tags.`sg3flow.stage` = 'train'", None
    while True:
        page = store.client.search_runs(experiments, wanted, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
