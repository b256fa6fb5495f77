"""The model card of a registered version: its description in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sg3flow.rendering.edits import Directions
from sg3flow.runs.best_snapshot import BestSnapshot
from sg3flow.serving.request_fields import request_rows
from sg3flow.tracking.run_notes import metrics_table, table

SAMPLES = "samples.png"
_MOST_DIRECTIONS = 32
_PATH = f"artifacts%2F{SAMPLES}"


@dataclass(frozen=True)
class Lineage:
    """The origin of a version.

    Attributes:
        run_id: the run that the model belongs to.
        model_id: the LoggedModel.
        run_name, commit: of that run; empty if unknown.
        experiment_id: of that run.
    """

    run_id: str
    model_id: str
    run_name: str = ""
    commit: str = ""
    experiment_id: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """What a card says of a generator.

    Attributes:
        network: architecture and size, such as ``StyleGAN3-T, 32 x 32 pixels, 3 classes``.
        set_name: the training set's name for people.
        training_set: as described in the snapshot.
        snapshot_sha256: of the snapshot's file.
        start: the network that the training started from, as ``network_info`` records it; empty:
            random weights, or not recorded.
        directions: the registered directions; None: there are none.
    """

    network: str
    set_name: str
    training_set: Mapping[str, Any]
    snapshot_sha256: str
    start: Mapping[str, Any] = field(default_factory=dict)
    directions: Directions | None = None


def model_card(
    name: str,
    version: str,
    best: BestSnapshot,
    facts: ModelFacts,
    lineage: Lineage,
    verdicts: Sequence[str] = (),
) -> str:
    """The description of a version: what it is, samples, metrics, data, license, use, origin.

    Args:
        verdicts: of the gate before ``champion``, one per metric; empty: not compared yet.
    """
    data = facts.training_set
    origin = {
        "training": f"[{lineage.run_name or 'unnamed'}]({_run_url(lineage)})",
        **_start(facts),
        "snapshot": f"`{best.snapshot}`, {_age(best, facts)}, chosen by {best.metric}",
        **({"made from": str(data["made_from"])} if data.get("made_from") else {}),
        "data": f"{facts.set_name}, {data.get('num_images', '?')} images, digest "
        f"`{str(data.get('digest') or 'unknown')[:12]}`",
        "license": f"{data.get('licence') or 'unknown'}{_citation(data)}",
        "commit": f"`{lineage.commit[:12]}`" if lineage.commit else "unknown",
        "SHA-256": f"`{facts.snapshot_sha256[:12]}` (snapshot)",
    }
    return "\n\n".join(
        [
            f"**{facts.network}**, trained on {facts.set_name}.",
            f"![seeds 0 to 11, psi 1]({_image_url(lineage.model_id)})",
            metrics_table(best.results.values(), best.metric),
            *([f"At its registration: {'; '.join(verdicts)}."] if verdicts else []),
            table(("", ""), [(f"**{key}**", words) for key, words in origin.items()]),
            "### Use",
            f"`sg3flow serve {name}@champion`, or in Python and on the command line as the network "
            f"`models:/{name}/{version}`. A request has rows and `params` with these fields:",
            table(("field", "type", "meaning"), request_rows()),
            *_direction_rows(facts.directions),
            f"The samples as a file: `mlflow artifacts download -u "
            f"models:/{name}/{version}/artifacts/{SAMPLES}`",
        ]
    )


def _direction_rows(directions: Directions | None) -> list[str]:
    if directions is None:
        return []
    scales = (f"{scale:.4g}" for scale in directions.scales)
    rows = list(zip(directions.names, scales, strict=True))[:_MOST_DIRECTIONS]
    return [
        "Directions for `edits`, with the standard deviation of w along each, a natural step:",
        table(("name", "step"), rows),
    ]


def _start(facts: ModelFacts) -> dict[str, str]:
    """A row about the network that the training started from; none for random weights."""
    if not facts.start.get("source"):
        return {}
    digest = str(facts.start.get("sha256") or "unknown")[:12]
    return {"starts from": f"`{facts.start['source']}`, SHA-256 `{digest}`"}


def _age(best: BestSnapshot, facts: ModelFacts) -> str:
    if best.kimg == 0 and _start(facts):
        return "0 kimg: the network that the training started from"
    return f"{best.kimg} kimg"


def _citation(training_set: Mapping[str, Any]) -> str:
    return f"; cite: {training_set['citation']}" if training_set.get("citation") else ""


def _run_url(lineage: Lineage) -> str:
    return f"#/experiments/{lineage.experiment_id}/runs/{lineage.run_id}"


def _image_url(model_id: str) -> str:
    # Relative: the text is valid on every server, and behind a prefix.
    return (
        f"ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files?artifact_file_path={_PATH}"
    )
