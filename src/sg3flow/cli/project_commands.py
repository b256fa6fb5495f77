"""The commands `sg3flow init` and `sg3flow recipes`."""

from typing import Annotated

import typer

from sg3flow.cli.stage_options import complete_recipe, one_line_errors, stage_app

project_app = stage_app("")
_Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


@project_app.command()
def init(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="folder of the project; . is the current one")
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="recipe for params.yaml; `sg3flow recipes` lists them",
            autocompletion=complete_recipe,
        ),
    ] = "starter",
    debug: _Debug = False,
) -> None:
    """Make a project in which `dvc repro` runs the pipeline.

    Writes dvc.yaml, params.yaml, stages/ and what belongs to them; makes a git repository unless
    the folder is in one. Overwrites nothing and commits nothing.
    """
    with one_line_errors(debug):
        from sg3flow.cli.new_project import make_project
        from sg3flow.output_checks import output_folder

        print("\n".join(make_project(output_folder(folder, "DIR"), recipe)))


@project_app.command()
def recipes(debug: _Debug = False) -> None:
    """List the recipes and the GPU memory, time and disk that each needs."""
    with one_line_errors(debug):
        from sg3flow.cli.recipes import print_recipes

        print_recipes()
