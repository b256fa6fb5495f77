"""The commands ``render mix`` and ``render path``, and options that all render commands share."""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import stage_app, stage_command
from sg3flow.config import RenderMixConfig

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
    """Write grid.png, rows with the styles of columns, and one PNG per image."""
    from sg3flow.rendering.mix_outputs import render_mix

    print(render_mix(network, outdir, config, class_index))
