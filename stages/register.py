r"""Register the best snapshot in the MLflow registry.

In: a training run and its metrics. Out: a version of the registered model with the aliases
`candidate` and, if it is better than the present one, `champion`; and a report.

    python stages/register.py --run runs/train --metrics reports/metrics.json \
        --report reports/registered.json --params params.yaml

A few seconds; running it again adds nothing.
"""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import run as run_app
from sg3flow.command import stage_app, stage_command
from sg3flow.config import RegisterConfig

app = stage_app(__doc__)


@stage_command(app, "register", RegisterConfig)
def register(
    config: RegisterConfig,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/train"),
    metrics: Annotated[Path, typer.Option(help="report of evaluate")] = Path(
        "reports/metrics.json"
    ),
    report: Annotated[Path, typer.Option(help="where to write what was registered")] = Path(
        "reports/registered.json"
    ),
) -> None:
    """Register the best snapshot as a servable model; `champion` moves only if it is better."""
    from sg3flow.errors import TrackingError
    from sg3flow.tracking.registry import register_best

    try:
        content = register_best(run, metrics, report, config)
    except TrackingError as error:  # a registry cannot be made up for later, as a run can
        raise TrackingError(f"{error}; then run the same command again") from error
    print(f"{content['name']}: {content['note']}; {content['decision']}")


if __name__ == "__main__":
    run_app(app)
