"""Validate a packed set before anything is trained on it.

In: the packed set, its manifest and, for thumbnails, the raw pictures; with --reference, the
``validation.json`` of an earlier set. Out: ``validation.json`` and ``validation.html``, written
whether or not the set passes. If an expectation fails, the command ends with an error that names
it, so that ``dvc repro`` stops here.

    python stages/validate.py --manifest data/manifest.parquet --packed data/packed.zip

Expected time: 600 pictures of 128 px in 6 s; 16,000 of 256 px in 1 to 3 min on 2 cores.
"""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import run, stage_app, stage_command
from sg3flow.config import ValidateConfig

app = stage_app(__doc__)


@stage_command(app, "validate", ValidateConfig)
def validate(
    config: ValidateConfig,
    manifest: Annotated[Path, typer.Option(help="manifest that packing wrote")],
    packed: Annotated[Path, typer.Option(help="packed set to validate")],
    raw: Annotated[
        Path | None, typer.Option(help="source it was packed from, for thumbnails and the name")
    ] = None,
    report: Annotated[Path, typer.Option(help="report for machines to write")] = Path(
        "reports/validation.json"
    ),
    html: Annotated[
        Path | None, typer.Option(help="report for people; default: beside --report, as .html")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes; 0: one a CPU")] = 0,
) -> None:
    """Validate a packed set and its manifest."""
    from sg3flow.data.checks import check_inputs, require_success, validate_packed
    from sg3flow.reports.pages import tracking_place
    from sg3flow.reports.validation_page import refuse_foreign_reports, write_reports
    from sg3flow.tracking.stage_run import tracked_stage

    html = html or report.with_suffix(".html")
    check_inputs(manifest, packed, raw)  # a misspelt path needs no run in MLflow
    refuse_foreign_reports(report, html)
    with tracked_stage("validate", config) as tracking:
        result = validate_packed(manifest, packed, raw, config, workers=workers)
        write_reports(result, report, html, tracking_place())
        tracking.artifact(report)
        tracking.artifact(html)
        tracking.metrics(result.metrics())
        tracking.dataset(
            name=packed.stem,
            digest=result.summary["digest"] or "unreadable",
            source=str(packed),
            profile=result.summary,
        )
        print(require_success(result, html))


if __name__ == "__main__":
    run(app)
