"""The command line: the stages, and the `sg3flow` command."""


def main() -> None:
    """Entry point of the installed command."""
    from sg3flow.cli.commands import app
    from sg3flow.cli.stage_options import run

    run(app)
