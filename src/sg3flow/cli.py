"""The `sg3flow` command: what is not a stage."""

from pathlib import Path
from typing import Annotated

import typer

from sg3flow.command import one_line_errors, run, stage_app

app = stage_app("Everything around the stages; the stages themselves are scripts in stages/.")

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


@app.callback()
def _commands() -> None:
    """Everything around the stages; the stages themselves are scripts in stages/."""


@app.command()
def use(
    recipe: Annotated[str, typer.Argument(help="name of a file in recipes/, without .yaml")],
    force: Annotated[bool, typer.Option("--force", help="overwrite changed params")] = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe over params.yaml; settings you changed by hand are not overwritten."""
    with one_line_errors(debug):
        from sg3flow.recipes import use_recipe

        print(use_recipe(recipe, force=force))


@app.command()
def summary(debug: Debug = False) -> None:
    """Show what the pipeline made: a table of the stages, the pictures, the commands to go on."""
    with one_line_errors(debug):
        from sg3flow.summary import print_summary

        print_summary()


@app.command()
def sync(
    folder: Annotated[
        Path | None, typer.Argument(help="work folder of one run; without: all runs in state/")
    ] = None,
    debug: Debug = False,
) -> None:
    """Send to MLflow what a training could not send while the server was away."""
    with one_line_errors(debug):
        from sg3flow.project import state_root
        from sg3flow.tracking.sync import sync_folder

        for line in sync_folder(folder or state_root()):
            print(line)


@app.command()
def doctor(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="build the kernels anew")] = False,
    debug: Debug = False,
) -> None:
    """Show which kernels run on this machine, and why; build them if they are not there."""
    with one_line_errors(debug):
        from sg3flow.kernels.doctor import examine

        for line in examine(rebuild):
            print(line)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="MLflow run (id, beginning of it, or name), NAME@ALIAS, @ALIAS, models:/NAME/3, "
            "DVC experiment, git revision, or run folder; the others are held against the first",
        ),
    ],
    out: Annotated[Path, typer.Option(help="page to write")] = Path("reports/compare.html"),
    best_by: Annotated[
        str, typer.Option(help="metric that picks each best snapshot; empty: that of its report")
    ] = "",
    seeds: Annotated[
        str, typer.Option(help="seeds drawn side by side: 0,3-7; empty: no pictures")
    ] = "0-5",
    psi: Annotated[float, typer.Option(help="truncation strength of the pictures")] = 1.0,
    class_index: Annotated[
        int | None, typer.Option("--class", help="class of the pictures; without: in turn")
    ] = None,
    device: Annotated[str, typer.Option(help="where to draw: auto, cpu or cuda")] = "auto",
    debug: Debug = False,
) -> None:
    """Compare runs: settings, curves, metrics with verdicts, the same seeds; a table and a page."""
    with one_line_errors(debug):
        from sg3flow.compare.run import Request, write_comparison

        request = Request(runs, out, best_by, seeds, psi, class_index, device)
        print(f"page: {write_comparison(request)}")


@app.command()
def sweep(
    setting: Annotated[str, typer.Argument(help="a number in the train section, gamma say")],
    factors: Annotated[
        str, typer.Option(help="what its present value is multiplied by")
    ] = "0.25,0.5,1,2,4",
    params: Annotated[Path, typer.Option(help="file with the present value")] = Path("params.yaml"),
    debug: Debug = False,
) -> None:
    """Print the commands that try a setting at multiples of its value; `| sh -e` runs them."""
    with one_line_errors(debug):
        from sg3flow.sweep import sweep_commands

        print("\n".join(sweep_commands(params, setting, factors)))


def main() -> None:
    """Entry point of the installed command."""
    run(app)
