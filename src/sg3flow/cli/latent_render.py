"""The commands ``render mix``, ``path``, ``sticking``, and options that render commands share."""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import stage_app, stage_command
from sg3flow.config import RenderMixConfig, RenderPathConfig, RenderStickingConfig

Network = Annotated[str, typer.Option(help="network: file, URL, models:/…, runs:/… or name")]
Outdir = Annotated[Path, typer.Option(help="folder to write into")]
ClassOrAll = Annotated[
    int | None,
    typer.Option("--class", min=0, help="class of a conditional network; default: all in turn"),
]

latent_render_app = stage_app("")


@stage_command(latent_render_app, "mix", RenderMixConfig, params=False)
def mix(
    config: RenderMixConfig, network: Network, outdir: Outdir, class_index: ClassOrAll = None
) -> None:
    """Write grid.png: rows with styles of columns.

    Each image is also a PNG of its own.
    """
    from sg3flow.rendering.mix_outputs import render_mix

    print(render_mix(network, outdir, config, class_index))


@stage_command(latent_render_app, "path", RenderPathConfig, params=False)
def path(
    config: RenderPathConfig,
    network: Network,
    keyframes: Annotated[
        Path,
        typer.Option(
            help=".csv with a header or .json with a list; columns: seed or w (a file), index, "
            "psi, x, y, angle, class, label, edit:NAME"
        ),
    ],
    curve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="scale an edit by the loudness of an audio file, or by a .csv of time,value; "
            "repeatable",
        ),
    ] = None,
    outdir: Annotated[Path | None, typer.Option(help="folder to write path.mp4 into")] = None,
    output: Annotated[
        Path | None, typer.Option(help="video to write, FILE.mp4, instead of --outdir")
    ] = None,
    class_index: ClassOrAll = None,
) -> None:
    """Write an MP4 file: a smooth path through keyframes."""
    from sg3flow.rendering.outputs import video_path
    from sg3flow.rendering.path_outputs import PATH_NAME, render_path

    file = video_path(outdir, output, PATH_NAME)
    frames = render_path(
        network,
        file,
        config,
        keyframes,
        curves=curve or (),
        class_index=class_index,
    )
    print(f"{frames} frames in {file}")


@stage_command(latent_render_app, "sticking", RenderStickingConfig, params=False)
def sticking(
    config: RenderStickingConfig,
    network: Network,
    outdir: Outdir,
    class_index: Annotated[
        int | None,
        typer.Option("--class", min=0, help="class of a conditional network; default: the first"),
    ] = None,
) -> None:
    """Write sticking.png: a column of pixels of all frames of a path.

    Horizontal lines are texture that sticks to the pixels.
    """
    from sg3flow.rendering.sticking import render_sticking

    print(render_sticking(network, outdir, config, class_index))
