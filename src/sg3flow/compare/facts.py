"""What is known of a run that is compared, wherever it was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Point:
    """A value at an age of the run.

    Attributes:
        kimg: thousands of real images seen in training.
        value: what was measured.
        error: its standard error; None: not known.
    """

    kimg: float
    value: float
    error: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """The snapshot whose pictures are shown.

    Attributes:
        source: what ``load_networks`` takes.
        kimg: its age; None: not known.
        chosen: why this one, in words.
    """

    source: str
    kimg: float | None
    chosen: str


@dataclass(frozen=True)
class Facts:
    """A run as found. What an older version did not record is left out, never an error.

    Attributes:
        kind: what that turned out to be: ``MLflow run``, ``DVC experiment``, ...
        name: of the run.
        address: its id, commit or path.
        state: how far it is, in words.
        params: settings as text, by section and name: ``train.gamma``.
        environment: what else decides the result, as text: ``torch``, ``data set``, ...
        curves: statistics of the training over its age, by their names in ``stats.jsonl``.
        trained: metrics measured during training, without what it takes to compare them.
        results: rows of ``reports/metrics.json``.
        best: of them, those of the snapshot that is judged, by metric.
        snapshot: the one whose pictures are shown; None: there is none.
        notes: what is missing, in words.
        run_id: of its run in MLflow, as far as that is known here; empty: it is not.
    """

    kind: str
    name: str
    address: str
    state: str
    params: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    trained: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    results: Sequence[Mapping[str, Any]] = ()
    best: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    notes: Sequence[str] = ()
    run_id: str = ""


def letter(index: int) -> str:
    """The letter by which a comparison calls its run number ``index``: A, B, ..."""
    return chr(ord("A") + index)
