"""The `sg3flow` command: every stage as a subcommand, and the commands that are not stages."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sg3flow import __version__
from sg3flow.cli.average_command import average_app
from sg3flow.cli.blend_command import blend_app
from sg3flow.cli.clean_command import clean_app
from sg3flow.cli.directions_command import directions_app
from sg3flow.cli.explore_command import AllowHost, explore_app, explorer_page
from sg3flow.cli.export_command import export_app
from sg3flow.cli.networks import networks_app
from sg3flow.cli.project_commands import project_app
from sg3flow.cli.projection_command import projection_app
from sg3flow.cli.schema import schema_app
from sg3flow.cli.stage_commands import (
    code_app,
    evaluate_app,
    fetch_app,
    pack_app,
    register_app,
    render_app,
    train_app,
    validate_app,
)
from sg3flow.cli.stage_options import complete_recipe, one_line_errors, stage_app

_ABOUT = """Train, evaluate, register and serve StyleGAN3 models with DVC and MLflow.

Each stage of the pipeline is a command, and `dvc repro` runs all of them in order.
"""
_STAGES = ("code", "fetch", "pack", "validate", "train", "evaluate", "render", "register")


class _StagesFirst(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help: the stages of the pipeline, then the others."""
        return [*_STAGES, *(name for name in self.commands if name not in _STAGES)]


app = stage_app(_ABOUT, completion=True)
for _stage in (code_app, fetch_app, pack_app, validate_app, train_app, register_app):
    app.registered_commands += _stage.registered_commands
app.add_typer(
    evaluate_app, name="evaluate", help="Measure snapshots, a network, or a set of images."
)
app.add_typer(render_app, name="render", help="Render images, grids and videos of a generator.")
app.registered_commands += schema_app.registered_commands
app.registered_commands += networks_app.registered_commands
app.registered_commands += export_app.registered_commands
app.registered_commands += blend_app.registered_commands
app.registered_commands += average_app.registered_commands
app.registered_commands += projection_app.registered_commands
app.registered_commands += directions_app.registered_commands
app.registered_commands += explore_app.registered_commands

Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"sg3flow {__version__}")
        raise typer.Exit


@app.callback(cls=_StagesFirst, invoke_without_command=True)
def _print_help(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="show the version and exit"
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


app.registered_commands += project_app.registered_commands  # init, recipes


@app.command()
def use(
    recipe: Annotated[
        str,
        typer.Argument(
            help="name of a recipe; `sg3flow recipes` lists them", autocompletion=complete_recipe
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="overwrite uncommitted settings")] = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe to params.yaml.

    Refuses to overwrite settings that are not committed, unless --force is given.
    """
    with one_line_errors(debug):
        from sg3flow.cli.recipes import use_recipe

        print(use_recipe(recipe, force=force))


@app.command("set")
def set_settings(
    assignments: Annotated[
        list[str], typer.Argument(help="SECTION.NAME=VALUE, for example train.gamma=2")
    ],
    debug: Debug = False,
) -> None:
    """Change settings in params.yaml and keep its comments."""
    with one_line_errors(debug):
        from sg3flow.params_file import set_values
        from sg3flow.settings import project_root

        print(set_values(project_root() / "params.yaml", assignments))


@app.command()
def summary(debug: Debug = False) -> None:
    """Show the results of the pipeline and the next commands."""
    with one_line_errors(debug):
        from sg3flow.cli.status import print_summary

        print_summary()


app.registered_commands += clean_app.registered_commands


@app.command()
def sync(
    folder: Annotated[
        Path | None, typer.Argument(help="folder of one or more runs; default: all runs in state/")
    ] = None,
    debug: Debug = False,
) -> None:
    """Upload to MLflow what was recorded while it was unreachable."""
    with one_line_errors(debug):
        from sg3flow.settings import state_root
        from sg3flow.tracking.upload_process import sync_folder

        for line in sync_folder(folder or state_root()):
            print(line)


@app.command()
def reproduce(
    run: Annotated[
        str,
        typer.Argument(help="run folder, run ID or name, NAME@champion, or models:/NAME/3"),
    ],
    data: Annotated[
        Path | None, typer.Option(help="path of the packed set, if it has moved")
    ] = None,
    resume: Annotated[
        str, typer.Option(help="source of the initial network, if it has moved")
    ] = "",
    kimg: Annotated[int | None, typer.Option(help="reproduce only the first N kimg")] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="remove an earlier attempt and start over")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="continue despite mismatches")] = False,
    debug: Debug = False,
) -> None:
    """Repeat a training from its record and compare the snapshots.

    The recorded code runs in a git worktree of its own, below reproductions/.
    """
    with one_line_errors(debug):
        import tempfile

        from sg3flow.runs.reproduce import reproduce as reproduce_run
        from sg3flow.settings import project_root
        from sg3flow.tracking.tracked_runs import find_record

        with tempfile.TemporaryDirectory() as scratch:
            record = find_record(run, Path(scratch))
            result = reproduce_run(
                record,
                project_root(),
                lambda line: print(line, flush=True),
                data=data,
                resume=resume,
                kimg=kimg,
                clean=clean,
                force=force,
            )
        print("\n".join(result.lines()))
        if not result.equal:
            raise typer.Exit(1)


@app.command()
def doctor(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="rebuild the kernels")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="let mlflow.db of a moved or copied project name its artifacts here, even if "
            "some are left behind",
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Show the kernels and the tracking store of this machine; build missing kernels."""
    with one_line_errors(debug):
        from sg3flow.cli.status import examine, examine_store

        for line in examine_store(repair):
            print(line)
        for line in examine(rebuild):
            print(line)


Name = Annotated[str, typer.Argument(help="name of the registered model")]


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="version number or alias")],
    metric: Annotated[
        str, typer.Option(help="metric to compare by; default: the one the version was chosen by")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="promote even if the gate fails")] = False,
    reason: Annotated[str, typer.Option(help="recorded in the history; required by --force")] = "",
    debug: Debug = False,
) -> None:
    """Make a version the champion if it beats the current one."""
    with one_line_errors(debug):
        from sg3flow.registry.aliases import promote as promote_version

        _print_change(promote_version(name, version, metric=metric, force=force, reason=reason))


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(help="recorded in the history")] = "",
    debug: Debug = False,
) -> None:
    """Restore the previous champion; repeat it to go back further."""
    with one_line_errors(debug):
        from sg3flow.registry.aliases import rollback as restore_previous

        _print_change(restore_previous(name, reason=reason))


def _print_change(change: Any) -> None:
    print(change.text)
    if change.warning:
        print(f"warning: {change.warning}", file=sys.stderr)


@app.command()
def history(name: Name, debug: Debug = False) -> None:
    """Show the versions of a model and all changes of its aliases."""
    with one_line_errors(debug):
        from sg3flow.registry.history import print_history

        print_history(name)


@app.command()
def serve(
    target: Annotated[str, typer.Argument(help="NAME@ALIAS, for example sg3flow-starter@champion")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 5001,
    poll: Annotated[
        float, typer.Option(min=0.1, max=3600, help="seconds between checks of the registry")
    ] = 5.0,
    load_timeout: Annotated[
        float, typer.Option(min=1, max=86400, help="seconds a version may take to load")
    ] = 300.0,
    max_waiting: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="maximum concurrent requests; more get status 503"),
    ] = 256,
    body_timeout: Annotated[
        float,
        typer.Option(min=0.1, max=3600, help="seconds the body of a request may take to arrive"),
    ] = 30.0,
    explorer: Annotated[
        bool, typer.Option("--explorer/--no-explorer", help="show the explorer at /")
    ] = True,
    allow_host: AllowHost = None,
    debug: Debug = False,
) -> None:
    """Serve the version that an alias points to.

    When the alias changes, the new version is loaded beside the old one and takes over.
    """
    with one_line_errors(debug):
        from sg3flow.interrupts import stop_answering
        from sg3flow.registry.alias_server import serve as run_server
        from sg3flow.serving.gateway import Settings
        from sg3flow.serving.request_schema import Limits

        limits = Limits.from_environment()
        settings = Settings(
            poll_sec=poll,
            load_sec=load_timeout,
            max_waiting=max_waiting,
            max_body_bytes=limits.max_body_bytes,
            body_sec=body_timeout,
            max_rows=limits.max_pictures,
        )
        stop_answering()
        page = explorer_page(target, host, allow_host or ()) if explorer else None
        run_server(target, host, port, settings, page)


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="MLflow run (ID, prefix of an ID, or name), NAME@ALIAS, @ALIAS, models:/NAME/3, "
            "DVC experiment, git revision, or run folder; all are compared with the first",
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML page to write")] = Path("reports/compare.html"),
    best_by: Annotated[
        str,
        typer.Option(help="metric that selects each best snapshot; default: that of its report"),
    ] = "",
    seeds: Annotated[
        str, typer.Option(help="seeds to show side by side, such as 0,3-7; empty: no images")
    ] = "0-5",
    psi: Annotated[float, typer.Option(min=-2, max=2, help="truncation psi of the images")] = 1.0,
    class_index: Annotated[
        int | None,
        typer.Option("--class", min=0, help="class of the images; default: all in turn"),
    ] = None,
    device: Annotated[str, typer.Option(help="device to render on: auto, cpu or cuda")] = "auto",
    debug: Debug = False,
) -> None:
    """Compare the settings, metrics, curves and images of runs.

    Prints a table and writes an HTML page.
    """
    with one_line_errors(debug):
        from sg3flow.reports.comparison_page import Request, write_comparison

        request = Request(runs, out, best_by, seeds, psi, class_index, device)
        print(f"page: {write_comparison(request)}")


@app.command()
def sweep(
    setting: Annotated[str, typer.Argument(help="a number in the train section, such as gamma")],
    factors: Annotated[
        str, typer.Option(help="factors to multiply the current value by")
    ] = "0.25,0.5,1,2,4",
    debug: Debug = False,
) -> None:
    """Print the commands of a sweep over one setting.

    `sg3flow sweep gamma | sh -e` runs them.
    """
    with one_line_errors(debug):
        from sg3flow.cli.sweep import sweep_commands
        from sg3flow.settings import project_root

        print("\n".join(sweep_commands(project_root() / "params.yaml", setting, factors)))
