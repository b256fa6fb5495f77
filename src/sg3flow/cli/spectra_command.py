"""The command ``sg3flow evaluate spectra``: average power spectra beside that of the reals."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import stage_app, stage_command
from sg3flow.config import SpectraConfig

spectra_app = stage_app("")

Verbose = Annotated[bool, typer.Option(help="show progress")]


@dataclass(frozen=True, kw_only=True)
class _Recorded(SpectraConfig):
    """The parameters of an MLflow run."""

    source: tuple[str, ...]


@stage_command(spectra_app, "spectra", SpectraConfig, params=False)
def spectra(
    config: SpectraConfig,
    source: Annotated[
        list[str],
        typer.Option(
            help="what to measure, once for each: a network (file, URL, models:/…, runs:/… or "
            "name), a run folder (its newest snapshot), or a folder, zip or tar file of images"
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="reals to compare with; default: the set that the first network was trained on"
        ),
    ] = None,
    outdir: Annotated[Path, typer.Option(help="folder to write into")] = Path("reports/spectra"),
    verbose: Verbose = True,
) -> None:
    """Average power spectra of images: heat maps, slices, and the deviation from the reals in dB.

    A peak above the reals at high frequencies is aliasing or noise, a lack is blur.
    """
    from sg3flow.addresses import shown_url
    from sg3flow.files import write_bytes
    from sg3flow.metrics.spectra_run import (
        HEAT_MAP_NAME,
        SLICES_NAME,
        check_folder,
        deviation_words,
        measure_spectra,
        write_spectra,
    )
    from sg3flow.progress import progress_shown
    from sg3flow.reports.spectra_figures import heat_map, slices_chart
    from sg3flow.tracking.upload_process import tracked_stage

    check_folder(outdir)  # before an MLflow run is created
    recorded = _Recorded(**asdict(config), source=tuple(shown_url(each) for each in source))
    with progress_shown(verbose), tracked_stage("spectra", recorded) as tracking:
        found = measure_spectra(config, source, data)
        for name, draw in ((HEAT_MAP_NAME, heat_map), (SLICES_NAME, slices_chart)):
            content = draw(found.series)
            write_bytes(outdir / name, content)
            tracking.step_image(content, name.partition(".")[0], 0)
            tracking.artifact(outdir / name)
        for path in write_spectra(outdir, found, config):
            tracking.artifact(path)
        tracking.metrics(
            {
                f"spectrum_deviation_db/{each.name}": each.deviation.decibels
                for each in found.measured
                if each.deviation is not None
            }
        )
    for each in found.series:
        print(deviation_words(each))
    print(f"heat maps, slices and spectra in {outdir}")
