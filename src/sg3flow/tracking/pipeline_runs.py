"""The runs of one execution of the pipeline, below the run of its training.

A training belongs to every execution that started or resumed it; other stages belong to one. The
stages before the training come into its run as soon as both are on the server, in either order.
"""

from typing import Any

from sg3flow.settings import Tag
from sg3flow.tracking.mlflow_store import Store

PARENT = "mlflow.parentRunId"


def join_pipeline(store: Store, run_id: str, stage: str, pipeline: str) -> None:
    """Record that a run belongs to an execution, and put stages below its training.

    Args:
        stage: of the run.
        pipeline: uid of the execution, as ``runs.pipeline`` gives it.
    """
    if stage == "train":
        store.client.set_tag(run_id, f"{Tag.PIPELINE}.{pipeline}", "train")
        for run in _runs(store, f"tags.`{Tag.PIPELINE}` = '{pipeline}'"):
            _put_below(store, run, run_id)
        return
    store.client.set_tag(run_id, Tag.PIPELINE, pipeline)
    trainings = _runs(store, f"tags.`{Tag.PIPELINE}.{pipeline}` = 'train'")
    if trainings:
        first = min(trainings, key=lambda run: (run.info.start_time, run.info.run_id))
        _put_below(store, store.client.get_run(run_id), first.info.run_id)


def _put_below(store: Store, run: Any, parent_id: str) -> None:
    if not run.data.tags.get(PARENT):
        store.client.set_tag(run.info.run_id, PARENT, parent_id)


def _runs(store: Store, wanted: str) -> list[Any]:
    return list(store.client.search_runs([store.experiment_id], wanted))
