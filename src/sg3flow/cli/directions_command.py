"""The command ``sg3flow directions``: named directions in w, and a strip of images of each."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import stage_app, stage_command
from sg3flow.config import DirectionsConfig

directions_app = stage_app("")


@dataclass(frozen=True, kw_only=True)
class _Recorded(DirectionsConfig):
    """The parameters of an MLflow run."""

    network: str
    class_index: int | None


@stage_command(directions_app, "directions", DirectionsConfig, params=False)
def directions(
    config: DirectionsConfig,
    network: Annotated[str, typer.Option(help="network: file, URL, models:/…, runs:/… or name")],
    outdir: Annotated[
        Path | None, typer.Option(help="folder to write directions.npz and the strips into")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="file to write, FILE.npz without strips, for --outdir")
    ] = None,
    class_index: Annotated[
        int | None,
        typer.Option("--class", min=0, help="class of the samples; default: all in turn"),
    ] = None,
) -> None:
    """Find directions in w that change an image, for --edit of the render commands."""
    from sg3flow.addresses import shown_url
    from sg3flow.latent.direction_outputs import check_request, direction_table, write_directions_of
    from sg3flow.settings import Tag
    from sg3flow.tracking.upload_process import tracked_stage

    places = check_request(config, outdir, output, class_index)  # before an MLflow run is created
    recorded = _Recorded(**asdict(config), network=shown_url(network), class_index=class_index)
    with tracked_stage("directions", recorded) as tracking:
        found = write_directions_of(network, places, config, class_index)
        tracking.tags({Tag.WEIGHTS_SHA256: found.network})
        tracking.artifact(places.path)
        for strip in places.strips:
            tracking.artifact(strip, "strips")
    print("\n".join(direction_table(found)))
    strips = f", and a strip of images of each in {outdir}" if places.strips else ""
    print(f"{len(found.names)} directions in {places.path}{strips}")
