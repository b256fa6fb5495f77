"""`sg3flow project`: the w of photos in the latent space of a network."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sg3flow.cli.stage_options import stage_app, stage_command
from sg3flow.config import ProjectConfig

if TYPE_CHECKING:
    from sg3flow.latent.projection_outputs import TrackedProjection
    from sg3flow.tracking.outbox import StageRun

projection_app = stage_app("")


@stage_command(projection_app, "project", ProjectConfig, params=False)
def project(
    config: ProjectConfig,
    network: Annotated[str, typer.Option(help="network: file, URL, models:/…, runs:/… or name")],
    outdir: Annotated[
        Path,
        typer.Option(help="folder to write into; several photos get folders of their names there"),
    ],
    target: Annotated[
        list[Path] | None, typer.Option(metavar="PHOTO", help="photo to project; may be repeated")
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PHOTO]...", help="more photos, as in --target *.jpg"),
    ] = None,
    class_index: Annotated[
        int | None,
        typer.Option(
            "--class", min=0, help="class of a conditional network; default: w of all classes"
        ),
    ] = None,
) -> None:
    """Find the w whose image is nearest to a photo, and tune the network to it on request.

    Writes target.png, proj.png, projected_w.npz and proj.mp4; with --pti-steps also a network and
    proj-pti.png.
    """
    from sg3flow.latent.projection_outputs import project_photos

    photos = [*(target or []), *(more or [])]
    for found in project_photos(network, photos, outdir, config, class_index, _tracked):
        tuned = "" if found.pti_psnr is None else f", {found.pti_psnr:.1f} dB after tuning"
        print(f"{found.folder}: {found.psnr:.1f} dB{tuned}")


def _tracked(name: str, settings: "TrackedProjection") -> AbstractContextManager["StageRun"]:
    from sg3flow.tracking.upload_process import tracked_stage

    return tracked_stage("project", settings, set_name=name)
