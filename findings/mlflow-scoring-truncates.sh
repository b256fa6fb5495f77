#!/usr/bin/env bash
# MLflow 3.17.2: the scoring server truncates a number that `predict` of the same model refuses.
#
# A model whose signature has a column of type "long" gets 1.5. `predict` on a DataFrame refuses it
# ("Can not safely convert float64 to int64"), as the documentation of signature enforcement says.
# POST /invocations with the same value as JSON answers 200, and the model sees 1; true becomes 1
# and "7" becomes 7.
# Expected: status 400 for what `predict` refuses.
# What to do: declare the column "any" and check values in the model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "mlflow==3.17.2"
cd "$work"
MLFLOW_DISABLE_TELEMETRY=true "$work/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import json
import sys

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types.schema import ColSpec, Schema


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [repr(value) for value in model_input["seed"].tolist()]


signature = ModelSignature(Schema([ColSpec("long", "seed")]))
mlflow.pyfunc.save_model(
    "model", python_model=Model(), signature=signature, pip_requirements=[]
)
model = mlflow.pyfunc.load_model("model")
print("mlflow", mlflow.__version__)
found = []
for value in (1.5, True, "7"):
    try:
        direct = model.predict(pd.DataFrame({"seed": [value]}))
    except mlflow.MlflowException:
        direct = "refused"
    body = json.dumps({"dataframe_records": [{"seed": value}]})
    # As the server calls it.
    answer = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    served = json.loads(answer.response)["predictions"] if answer.status == 200 else "refused"
    found.append((direct, served))
    print(f"{value!r}: predict {direct}, POST /invocations {answer.status} {served}")
if found[0] != ("refused", ["1"]):
    sys.exit("the behavior has changed")
PY
