r"""Measure the quality of snapshots, or of any one network.

In: a training run with snapshots (or a network from anywhere), and the packed set to compare with.
Out: a report with every number and what it compares, and a table for plots.

    python stages/evaluate.py snapshots --run runs/train --data data/packed.zip \
        --report reports/metrics.json --table reports/metrics.csv --params params.yaml
    python stages/evaluate.py network --network NETWORK --data data/packed.zip \
        --metrics fid50k_full

Time a snapshot: fd_random1k_full takes what drawing 1000 pictures takes, its features a second on
one CPU core; fid50k_full draws 50,000 pictures and wants a GPU.
"""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import run as run_app
from sg3flow.command import stage_app, stage_command
from sg3flow.config import EvaluateConfig, EvaluateNetworkConfig

app = stage_app(__doc__)

Data = Annotated[Path, typer.Option(help="packed set to compare with: a zip or a folder")]


@stage_command(app, "evaluate", EvaluateConfig, name="snapshots")
def snapshots(
    config: EvaluateConfig,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/train"),
    data: Data = Path("data/packed.zip"),
    report: Annotated[Path, typer.Option(help="JSON report to write")] = Path(
        "reports/metrics.json"
    ),
    table: Annotated[Path, typer.Option(help="CSV table to write")] = Path("reports/metrics.csv"),
) -> None:
    """Measure the snapshots of a training run and name the best."""
    from sg3flow.metrics.run import evaluate_run, plan_run
    from sg3flow.tracking.stage_run import tracked_stage

    plan = plan_run(config, run, data, report, table)
    with tracked_stage("evaluate", config, training_run=run) as tracked:
        print(evaluate_run(plan, tracked))


@stage_command(app, "network", EvaluateNetworkConfig, params=False)
def network(
    config: EvaluateNetworkConfig,
    network: Annotated[str, typer.Option(help="a file, a URL, models:/… or runs:/…")],
    data: Data,
    report: Annotated[Path | None, typer.Option(help="JSON report to write")] = None,
) -> None:
    """Measure one network from anywhere."""
    from sg3flow.metrics.run import evaluate_one

    print(evaluate_one(config, network, data, report))


if __name__ == "__main__":
    run_app(app)
