r"""Register the best snapshot in the MLflow registry.

In: a training run and its metrics. Out: a version of the registered model with the aliases
`candidate` and, if it is better than the present one, `champion`; and a report.

    python stages/register.py --run runs/train --metrics reports/metrics.json \
        --report reports/registered.json --params params.yaml

A few seconds; running it again adds nothing.
"""

from sg3flow.cli.stage_commands import register_app
from sg3flow.cli.stage_options import run

if __name__ == "__main__":
    run(register_app, help=__doc__)
