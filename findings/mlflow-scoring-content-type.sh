#!/usr/bin/env bash
# MLflow 3.17.2: the scoring server refuses valid spellings of a request's content type.
#
# RFC 9110 (sections 8.3.1 and 5.6.6) compares type, subtype and charset without regard to case and
# allows a parameter's value in quotes. POST /invocations takes application/json, and answers 415 to
# Application/JSON ("only supports the following content types") and to
# application/json; charset="utf-8" ("only supports UTF-8"). Some HTTP clients send these.
# Expected: the same answer for the three.
# What to do: normalize the header in front of `mlflow models serve`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "mlflow==3.17.2"
cd "$work"
MLFLOW_DISABLE_TELEMETRY=true "$work/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import sys

import mlflow
from mlflow.pyfunc import scoring_server


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1]


mlflow.pyfunc.save_model("model", python_model=Model(), pip_requirements=[])
model = mlflow.pyfunc.load_model("model")
body = '{"dataframe_records": [{"a": 1}]}'
kinds = ("application/json", "Application/JSON", 'application/json; charset="utf-8"')
found = [scoring_server.invocations(body, kind, model, None).status for kind in kinds]
print("mlflow", mlflow.__version__)
for kind, status in zip(kinds, found, strict=True):
    print(status, kind)
if found != [200, 415, 415]:
    sys.exit("the behavior has changed")
PY
