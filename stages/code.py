"""Write what decides the outputs of each stage: a digest per source file, a file per stage.

In: the source code that runs. Out: `code/<stage>.txt`, on which the stage of that name depends.

    python stages/code.py --dest code

Takes a fraction of a second.
"""

from sg3flow.cli.stage_commands import code_app
from sg3flow.cli.stage_options import run

if __name__ == "__main__":
    run(code_app)
