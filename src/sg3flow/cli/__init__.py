"""The command line: the `sg3flow` command and the stages.

Both answer Ctrl-C from the start on, so whatever takes time to import is imported in functions.
"""

from sg3flow.interrupts import handled_interrupts


def main() -> None:
    """Entry point of the installed command and of ``python -m sg3flow``."""
    with handled_interrupts():
        import sys

        from sg3flow.cli.commands import app
        from sg3flow.cli.stage_options import run

        sys.argv[0] = "sg3flow"  # run records contain the command line, but no path of this machine
        run(app, program="sg3flow")


def run_stage(name: str, help: str | None, module: str = "stage_commands") -> None:
    """Run the script of a stage.

    Args:
        name: of the stage's application, without ``_app``.
        help: description for ``--help``.
        module: of this package, with the application.
    """
    with handled_interrupts():
        from importlib import import_module

        from sg3flow.cli.stage_options import run

        run(getattr(import_module(f"sg3flow.cli.{module}"), f"{name}_app"), help=help)
