"""The view "sg3flow" of an experiment: the columns and charts of MLflow's runs page.

MLflow keeps a named view as a tag of the experiment, and the page offers it under "Views"; the
address ends in ``viewStateShareKey=sg3flow``. Columns are the settings and metrics that differ
between trainings, charts the metrics of snapshots and then the losses.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sg3flow.tracking.metric_names import grouped_name
from sg3flow.tracking.mlflow_store import Store, experiment_of

VIEW = "sg3flow"
_TAG = f"mlflow.sharedViewState.{VIEW}"
_NAME = "sg3flow trainings"
_PARAMS = ("gamma", "kimg")
_MOST_METRICS = 5
_RUN_NAME = "attributes.`Run Name`"
_NAME_WIDTH, _WIDTH = 280, 110  # pixels
_OPEN = ("metrics", "loss")
_SECTIONS = (*_OPEN, "progress", "time", "memory", "repairs")


def update_view(store: Store, run_id: str, metrics: Iterable[str] = ()) -> None:
    """Create the view of a run's experiment, or add metrics to it; one that was edited stays.

    Args:
        metrics: names in the files, the most important first.
    """
    experiment_id = experiment_of(store, run_id)
    present = store.client.get_experiment(experiment_id).tags.get(_TAG)
    known: list[str] = []
    created = 0
    if present is not None:
        envelope = _parsed(present)
        known, created = envelope.get("metrics", []), envelope.get("createdAt", 0)
        if present != _envelope(known, created):
            return
    wanted = list(dict.fromkeys([*known, *metrics]))[:_MOST_METRICS]
    if present is None or wanted != known:
        created = created or store.client.get_experiment(experiment_id).creation_time or 1
        store.client.set_experiment_tag(experiment_id, _TAG, _envelope(wanted, created))


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _envelope(metrics: Sequence[str], created: int) -> str:
    """The tag's value; MLflow ignores ``metrics``, which says what the state was made from."""
    content = {"name": _NAME, "createdAt": created, "updatedAt": created, "metrics": list(metrics)}
    return json.dumps(content | {"state": json.dumps(_state(metrics))})


def _state(metrics: Sequence[str]) -> dict[str, Any]:
    """The state of the page, as its own "Save view" writes it."""
    columns = [f"metrics.`{grouped_name(name)}`" for name in metrics]
    columns += [f"params.`{name}`" for name in _PARAMS]
    widths = dict.fromkeys(columns, _WIDTH) | {_RUN_NAME: _NAME_WIDTH}
    return {
        "selectedColumns": columns,
        # The page puts these first and then its own: when a run was created, its duration.
        "columnOrder": [_RUN_NAME, *columns],
        "columnWidths": widths,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "compareRunCharts": [],  # the page adds a chart for each metric to its section
        "compareRunSections": [_section(name) for name in _SECTIONS],
        "isAccordionReordered": True,
    }


def _section(name: str) -> dict[str, Any]:
    return {
        "uuid": f"sg3flow-{name}",
        "name": name,
        "display": name in _OPEN,
        "isReordered": True,
        "deleted": False,
        "isGenerated": True,
    }
