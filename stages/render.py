r"""Render pictures and videos from a generator.

In: a network (our snapshot, a public pickle, a URL, models:/NAME@ALIAS or runs:/…), or with `best`
the best snapshot of a training run. Out: PNGs `seed0002.png`, a labelled `grid.png`, a sheet
`truncation.png`, a looping `interpolation.mp4`.

    python stages/render.py images --network SRC --seeds 2 --trunc 1 --outdir out

    python stages/render.py best --run runs/train --metrics reports/metrics.json \
        --outdir renders --params params.yaml

About 0.1 s a picture of 128 x 128 on a CPU core; a video has hundreds of pictures.
"""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import run as run_app
from sg3flow.command import stage_app, stage_command
from sg3flow.config import (
    RenderConfig,
    RenderGridConfig,
    RenderImagesConfig,
    RenderSweepConfig,
    RenderVideoConfig,
)

app = stage_app(__doc__)

Network = Annotated[str, typer.Option(help="file, URL, models:/… or runs:/…")]
Outdir = Annotated[Path, typer.Option(help="folder to write into")]
ClassOrNone = Annotated[
    int | None, typer.Option("--class", min=0, help="class of a labelled network")
]
ClassOrAll = Annotated[
    int | None,
    typer.Option("--class", min=0, help="class of a labelled network; without: all in turn"),
]


@stage_command(app, "images", RenderImagesConfig, params=False)
def images(
    config: RenderImagesConfig, network: Network, outdir: Outdir, class_index: ClassOrNone = None
) -> None:
    """Write one PNG a seed, named as the public tools name them."""
    from sg3flow.rendering.outputs import render_images

    paths = render_images(network, outdir, config, class_index)
    print(f"{len(paths)} pictures in {outdir}, the last is {paths[-1].name}")


@stage_command(app, "grid", RenderGridConfig, params=False)
def grid(
    config: RenderGridConfig, network: Network, outdir: Outdir, class_index: ClassOrAll = None
) -> None:
    """Write grid.png: pictures with their seeds."""
    from sg3flow.rendering.outputs import render_grid

    print(render_grid(network, outdir, config, class_index))


@stage_command(app, "sweep", RenderSweepConfig, params=False)
def sweep(
    config: RenderSweepConfig, network: Network, outdir: Outdir, class_index: ClassOrAll = None
) -> None:
    """Write truncation.png: a row a seed, a column a truncation psi."""
    from sg3flow.rendering.outputs import render_sweep

    print(render_sweep(network, outdir, config, class_index))


@stage_command(app, "video", RenderVideoConfig, params=False)
def video(
    config: RenderVideoConfig, network: Network, outdir: Outdir, class_index: ClassOrAll = None
) -> None:
    """Write interpolation.mp4: a loop through the latents of the seeds."""
    from sg3flow.rendering.outputs import render_video

    print(render_video(network, outdir, config, class_index))


@stage_command(app, "render", RenderConfig, name="best")
def best(
    config: RenderConfig,
    run: Annotated[Path, typer.Option(help="folder of the training run")] = Path("runs/train"),
    metrics: Annotated[Path, typer.Option(help="report of evaluate")] = Path(
        "reports/metrics.json"
    ),
    outdir: Annotated[Path, typer.Option(help="folder to replace")] = Path("renders"),
) -> None:
    """Render everything from the best snapshot of a training run; the stage of dvc.yaml."""
    from sg3flow.rendering.best import render_best
    from sg3flow.tracking.stage_run import tracked_stage

    with tracked_stage("render", config, training_run=run) as tracking:
        content = render_best(run, metrics, outdir, config)
        for path in sorted(outdir.iterdir()):
            tracking.artifact(path, "renders")
        tracking.training_image(outdir / "grid.png", key="render/grid", kimg=content["kimg"])
    print(f"pictures of {content['snapshot']} in {outdir}")


if __name__ == "__main__":
    run_app(app)
