r"""Measure the quality of snapshots, of any one network, or of any set of pictures.

In: a training run with snapshots (or a network from anywhere), and the packed set to compare with;
or two folders or zip files of pictures.
Out: a report with every number, its error and what it compares; a table for plots; pictures of
every metric against kimg, and of generated pictures over the training pictures nearest to them.

    python stages/evaluate.py snapshots --run runs/train --data data/packed.zip \
        --report reports/metrics.json --table reports/metrics.csv --chart reports/metrics.png \
        --params params.yaml
    python stages/evaluate.py network --network NETWORK --data data/packed.zip \
        --metrics fid50k_full
    python stages/evaluate.py images --a FOLDER --b FOLDER --metrics fid,kid

On several GPUs: torchrun --nproc-per-node N -- stages/evaluate.py …, with the same numbers.
Time a snapshot: fd_random1k_full takes what drawing 1000 pictures takes, its features a second on
one CPU core; fid50k_full draws 50,000 pictures and wants a GPU.
"""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import run as run_app
from sg3flow.command import stage_app, stage_command
from sg3flow.config import EvaluateConfig, EvaluateImagesConfig, EvaluateNetworkConfig

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
    chart: Annotated[Path, typer.Option(help="PNG of metrics against kimg to write")] = Path(
        "reports/metrics.png"
    ),
) -> None:
    """Measure the snapshots of a training run and name the best."""
    from sg3flow.metrics.run import Outputs, evaluate_run, help_evaluate, plan_run
    from sg3flow.reports.charts import metrics_chart
    from sg3flow.tracking.stage_run import tracked_stage

    plan = plan_run(config, run, data, Outputs(report, table, chart))
    if not plan.ranks.is_first:
        help_evaluate(plan)
        return
    with tracked_stage("evaluate", config, training_run=run) as tracked:
        print(evaluate_run(plan, tracked, metrics_chart))


@stage_command(app, "network", EvaluateNetworkConfig, params=False)
def network(
    config: EvaluateNetworkConfig,
    network: Annotated[str, typer.Option(help="a file, a URL, models:/… or runs:/…")],
    data: Data,
    report: Annotated[Path | None, typer.Option(help="JSON report to write")] = None,
) -> None:
    """Measure one network from anywhere."""
    from sg3flow.metrics.run import evaluate_one

    if text := evaluate_one(config, network, data, report):
        print(text)


@stage_command(app, "images", EvaluateImagesConfig, params=False)
def images(
    config: EvaluateImagesConfig,
    a: Annotated[Path, typer.Option(help="pictures to judge: a folder or a zip")],
    b: Annotated[Path, typer.Option(help="pictures to hold them to: a folder or a zip")],
    report: Annotated[Path | None, typer.Option(help="JSON report to write")] = None,
) -> None:
    """Compare two sets of pictures of any size."""
    from sg3flow.metrics.run import evaluate_images

    print(evaluate_images(config, a, b, report))


if __name__ == "__main__":
    run_app(app)
