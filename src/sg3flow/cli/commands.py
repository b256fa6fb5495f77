"""The `sg3flow` command: what is not a stage."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sg3flow.cli.stage_commands import (
    evaluate_app,
    fetch_app,
    pack_app,
    register_app,
    render_app,
    train_app,
    validate_app,
)
from sg3flow.cli.stage_options import one_line_errors, stage_app

app = stage_app("The stages of the pipeline, and everything around them.")
for _stage in (fetch_app, pack_app, validate_app, train_app, register_app):
    app.registered_commands += _stage.registered_commands
app.add_typer(
    evaluate_app, name="evaluate", help="Measure snapshots, a network, or a set of images."
)
app.add_typer(render_app, name="render", help="Render images, grids and videos of a generator.")

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


@app.callback()
def _commands() -> None:
    """The stages of the pipeline, and everything around them."""


@app.command()
def use(
    recipe: Annotated[str, typer.Argument(help="name of a file in recipes/, without .yaml")],
    force: Annotated[bool, typer.Option("--force", help="overwrite changed params")] = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe over params.yaml; settings you changed by hand are not overwritten."""
    with one_line_errors(debug):
        from sg3flow.cli.sweep import use_recipe

        print(use_recipe(recipe, force=force))


@app.command("set")
def set_settings(
    assignments: Annotated[list[str], typer.Argument(help="SECTION.NAME=VALUE, train.gamma=2 say")],
    debug: Debug = False,
) -> None:
    """Change settings in params.yaml; comments stay."""
    with one_line_errors(debug):
        from sg3flow.params_file import set_values
        from sg3flow.settings import project_root

        print(set_values(project_root() / "params.yaml", assignments))


@app.command()
def summary(debug: Debug = False) -> None:
    """Show what the pipeline made: a table of the stages, the pictures, the commands to go on."""
    with one_line_errors(debug):
        from sg3flow.cli.status import print_summary

        print_summary()


@app.command()
def sync(
    folder: Annotated[
        Path | None, typer.Argument(help="folder of a run, or of several; without: all in state/")
    ] = None,
    debug: Debug = False,
) -> None:
    """Send to MLflow what stages could not send while the server was away."""
    with one_line_errors(debug):
        from sg3flow.settings import state_root
        from sg3flow.tracking.upload_process import sync_folder

        for line in sync_folder(folder or state_root()):
            print(line)


@app.command()
def reproduce(
    run: Annotated[
        str,
        typer.Argument(help="run folder, run id or name, NAME@champion, models:/NAME/3"),
    ],
    data: Annotated[Path | None, typer.Option(help="where its packed set is now")] = None,
    resume: Annotated[
        str, typer.Option(help="where the network it started from is now; empty: where it was")
    ] = "",
    kimg: Annotated[int | None, typer.Option(help="make only the first so many again")] = None,
    clean: Annotated[bool, typer.Option("--anew", help="remove an earlier attempt")] = False,
    force: Annotated[bool, typer.Option("--anyway", help="despite a contradiction")] = False,
    debug: Debug = False,
) -> None:
    """Make a training again from its record, in a work tree of its own: is it equal?"""
    with one_line_errors(debug):
        import tempfile

        from sg3flow.runs.reproduce import reproduce as make_again
        from sg3flow.settings import project_root
        from sg3flow.tracking.tracked_runs import find_record

        with tempfile.TemporaryDirectory() as scratch:
            record = find_record(run, Path(scratch))
            verdict = make_again(
                record,
                project_root(),
                lambda line: print(line, flush=True),
                data=data,
                resume=resume,
                kimg=kimg,
                clean=clean,
                force=force,
            )
        print("\n".join(verdict.lines()))
        if not verdict.equal:
            raise typer.Exit(1)


@app.command()
def doctor(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="build the kernels anew")] = False,
    debug: Debug = False,
) -> None:
    """Show which kernels run on this machine, and why; build them if they are not there."""
    with one_line_errors(debug):
        from sg3flow.cli.status import examine

        for line in examine(rebuild):
            print(line)


Name = Annotated[str, typer.Argument(help="name of the registered model")]


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="number of the version, or an alias")],
    metric: Annotated[
        str, typer.Option(help="compare by this one; empty: by what the version was chosen by")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="whatever the gate says")] = False,
    reason: Annotated[str, typer.Option(help="recorded with the move; --force needs it")] = "",
    debug: Debug = False,
) -> None:
    """Make a version the champion if it is better than the present one."""
    with one_line_errors(debug):
        from sg3flow.registry.aliases import promote as move

        _tell(move(name, version, metric=metric, force=force, reason=reason))


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="recorded with the move")] = "",
    debug: Debug = False,
) -> None:
    """Give champion back to the version that held it before; twice goes back by two."""
    with one_line_errors(debug):
        from sg3flow.registry.aliases import rollback as move_back

        _tell(move_back(name, reason=reason))


def _tell(moved: Any) -> None:
    print(moved.text)
    if moved.warning:
        print(f"warning: {moved.warning}", file=sys.stderr)


@app.command()
def history(name: Name, debug: Debug = False) -> None:
    """Show the versions of a model, and who moved its aliases, when and why."""
    with one_line_errors(debug):
        from sg3flow.registry.history import print_history

        print_history(name)


@app.command()
def serve(
    target: Annotated[str, typer.Argument(help="NAME@ALIAS, say sg3flow-starter@champion")],
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen at")] = 5001,
    poll: Annotated[
        float, typer.Option(min=0.1, max=3600, help="seconds between two looks at the registry")
    ] = 5.0,
    load_timeout: Annotated[
        float, typer.Option(min=1, max=86400, help="seconds a version may take to come up")
    ] = 300.0,
    max_waiting: Annotated[
        int, typer.Option(min=1, max=100_000, help="requests at once; more are answered by 503")
    ] = 256,
    debug: Debug = False,
) -> None:
    """Serve the version an alias stands at, and the next one as soon as the alias moves."""
    with one_line_errors(debug):
        from sg3flow.registry.alias_server import serve as run_server
        from sg3flow.serving.gateway import Settings
        from sg3flow.serving.request_schema import Limits

        body = Limits.from_environment().max_body_bytes
        settings = Settings(poll, load_timeout, max_waiting, body)
        run_server(target, host, port, settings)


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
        from sg3flow.reports.comparison_page import Request, write_comparison

        request = Request(runs, out, best_by, seeds, psi, class_index, device)
        print(f"page: {write_comparison(request)}")


@app.command()
def sweep(
    setting: Annotated[str, typer.Argument(help="a number in the train section, gamma say")],
    factors: Annotated[
        str, typer.Option(help="what its present value is multiplied by")
    ] = "0.25,0.5,1,2,4",
    debug: Debug = False,
) -> None:
    """Print the commands that try a setting at multiples of its value; `| sh -e` runs them."""
    with one_line_errors(debug):
        from sg3flow.cli.sweep import sweep_commands
        from sg3flow.settings import project_root

        print("\n".join(sweep_commands(project_root() / "params.yaml", setting, factors)))
