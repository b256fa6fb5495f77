r"""Train a GAN on a packed set.

In: a packed set (zip). Out: a folder with snapshots `network-snapshot-<kimg>.pkl`, sample grids,
`stats.jsonl`, `training_options.json` and `run.json`.

    python stages/train.py --outdir mods --cfg stylegan3-t --data data/afhq-256x256.zip \
        --gpus 1 --batch 16 --gamma 8.2 --kimg 10 --snap 10

The same command again goes on where an interrupted training was. Changing gamma, batch or the data
starts a new one; changing kimg, tick or snap goes on.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import given_arguments, run, stage_app, stage_command
from sg3flow.config import TrainConfig

app = stage_app(__doc__)


@stage_command(app, "train", TrainConfig)
def train(
    config: TrainConfig,
    data: Annotated[Path, typer.Option(help="packed set: a zip or a folder")],
    outdir: Annotated[Path | None, typer.Option(help="make a numbered run folder here")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="the run folder itself")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the settings and stop")] = False,
) -> None:
    """Train a GAN on a packed set."""
    from sg3flow.metrics.during import check_names, snapshot_metrics
    from sg3flow.processes import is_launched
    from sg3flow.tracking.mirror import mirrored
    from sg3flow.training.job import dry_run as check
    from sg3flow.training.run import check_output
    from sg3flow.training.run import train as run_training

    check_names(config.metrics)
    if dry_run:
        print(json.dumps(check(config, data), indent=2))
        return
    if config.gpus > 1 and not is_launched():
        from sg3flow.training.launch import launch

        # What is wrong is said once, and at once.
        check_output(run_dir, outdir)
        check(config, data)
        launch(config.gpus, [__file__, *given_arguments()])
        return
    out = run_training(
        config,
        data,
        run_dir=run_dir,
        outdir=outdir,
        mirror=mirrored,
        measure_for=lambda config, packed, device: snapshot_metrics(
            config.metrics, packed, batch=config.batch_gpu, device=device
        ),
    )
    if out is not None:
        print(f"snapshots in {out}")


if __name__ == "__main__":
    run(app)
