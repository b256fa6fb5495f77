"""The command line: the `sg3flow` command and the stages."""


def main() -> None:
    """Entry point of the installed command and of ``python -m sg3flow``."""
    import sys

    from sg3flow.cli.commands import app
    from sg3flow.cli.stage_options import run

    sys.argv[0] = "sg3flow"  # run records contain the command line, but no path of this machine
    run(app, program="sg3flow")
