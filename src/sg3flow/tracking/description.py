"""What a registered version tells about itself, as Markdown: MLflow shows it on its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sg3flow.metrics.best import BestSnapshot
from sg3flow.tracking.versions import with_error

SAMPLES = "samples.png"


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from.

    Attributes:
        run_id: run that made it; ``run_name`` and ``commit`` are that run's, empty if not known.
        model_id: the LoggedModel that holds its files.
    """

    run_id: str
    model_id: str
    run_name: str = ""
    commit: str = ""


def describe(
    name: str,
    version: str,
    best: BestSnapshot,
    training_set: Mapping[str, Any],
    lineage: Lineage,
    snapshot_sha256: str,
) -> str:
    """The description of a version: metrics with their errors, data, licence, lineage, samples."""
    lines = [
        f"{best.snapshot}, {best.kimg} kimg, chosen by {best.metric}.",
        "",
        "| metric | value | pictures |",
        "| --- | --- | --- |",
        *(_row(metric, result) for metric, result in sorted(best.results.items())),
        "",
        f"- trained on {training_set.get('num_images', '?')} pictures of "
        f"{training_set.get('name', '?')}, digest {training_set.get('digest') or 'not known'}",
        f"- licence: {training_set.get('licence') or 'not known'}{_citation(training_set)}",
        f"- run {lineage.run_name or 'not named'} ({lineage.run_id}), commit "
        f"{lineage.commit or 'not known'}, snapshot SHA-256 {snapshot_sha256}",
        f"- samples: `mlflow artifacts download -u models:/{name}/{version}/artifacts/{SAMPLES}`",
        "",
        f"![seeds 0 to 11, psi 1]({_picture_address(lineage.model_id)})",
    ]
    return "\n".join(lines)


def _row(metric: str, result: Mapping[str, Any]) -> str:
    return f"| {metric} | {with_error(dict(result))} | {result.get('num_generated', '')} |"


def _citation(training_set: Mapping[str, Any]) -> str:
    return f"; cite: {training_set['citation']}" if training_set.get("citation") else ""


def _picture_address(model_id: str) -> str:
    # Relative: the same text is right on every server, and behind a prefix.
    return (
        f"ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files?artifact_file_path={_PATH}"
    )


_PATH = f"artifacts%2F{SAMPLES}"
