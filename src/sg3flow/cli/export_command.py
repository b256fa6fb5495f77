"""The command ``sg3flow export``: a generator as a file of another format."""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app
from sg3flow.export.formats import FORMATS

export_app = stage_app("")

_FORMATS = ", ".join(f"{each.name} ({each.suffix}: {each.about})" for each in FORMATS.values())


@export_app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="network: file, URL, models:/…, runs:/… or name", metavar="SOURCE")
    ],
    dest: Annotated[Path, typer.Argument(help="file to write", metavar="DEST")],
    form: Annotated[
        str,
        typer.Option("--format", help=f"{_FORMATS}; default: the one that DEST ends like"),
    ] = "",
    log: Annotated[
        bool,
        typer.Option(help="also log the file to MLflow, in the run of a models:/ or runs:/ source"),
    ] = True,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Write a generator as a file for other programs.

    A file from a registered version is logged to the run of the version, which gets a tag.
    """
    with one_line_errors(debug):
        from sg3flow.export.exporting import export_network
        from sg3flow.settings import TRACKING
        from sg3flow.tracking.exported_files import find_origin, log_export

        is_logged = log and TRACKING.text().lower() != "off"
        origin = find_origin(source) if is_logged else None
        written = export_network(source if origin is None else origin.address, dest, form)
        print(f"{dest}: {written.form}, {written.num_bytes:,} bytes")
        if written.checked:
            print(written.checked)
        if origin is not None:
            print(log_export(origin, written))
        elif is_logged and source.startswith("models:/"):
            print("not logged: MLflow has no run for this address; give models:/NAME/NUMBER")
