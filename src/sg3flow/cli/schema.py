"""`sg3flow schema`: write the JSON schema of params.yaml for editors."""

from typing import Annotated

import typer

from sg3flow.cli.stage_options import one_line_errors, stage_app

schema_app = stage_app("")


@schema_app.command()
def schema(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    """Write params.schema.json, from which editors complete and check params.yaml."""
    with one_line_errors(debug):
        from sg3flow.params_schema import write_schema
        from sg3flow.settings import project_root

        print("\n".join(map(str, write_schema(project_root()))))
