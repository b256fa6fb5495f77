r"""Register the best snapshot in the MLflow registry.

In: a training run and its metrics. Out: a version of the registered model with the alias
`candidate`, and `champion` if it is better than the current champion; and a JSON report.

    python stages/register.py --run runs/train --metrics reports/evaluation.json \
        --report reports/registered.json --params params.yaml

Takes a few seconds. A second run registers nothing new.
"""

from sg3flow.cli import run_stage

if __name__ == "__main__":
    run_stage("register", help=__doc__)
