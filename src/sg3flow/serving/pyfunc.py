"""The registered model as MLflow loads it (models from code): a thin adapter, no pickle.

A request is rows with a ``seed`` each, and optionally ``psi``, ``class``, ``translate_x``,
``translate_y`` and ``rotate``, in the row or as ``params`` for the rows that give none (a null
counts as none):
``{"dataframe_records": [{"seed": 1}], "params": {"psi": 0.7}}``. The answer is
``{"predictions": [{"seed": 1, "png": "<base64>"}]}``, one a row, in order. Whatever is wrong with a
request is answered by status 400 and a sentence; a model that draws no finite values, by 500.
Requests are JSON: CSV has no types to be strict about.

The environment variable ``SG3FLOW_DEVICE`` says where pictures are made: ``auto`` (if it is not
set: the CUDA device if there is one), ``cpu`` or ``cuda``.
"""

import base64
import logging
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import INTERNAL_ERROR
from mlflow.models import Model, ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.pyfunc.context import get_prediction_context
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.serving.predictor import Predictor
from sg3flow.serving.requests import COLUMNS, PARAMS, read_requests


class GeneratorModel(PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """Seeds in, PNGs out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the package's two files."""
        weights, description = (Path(context.artifacts[k]) for k in ("weights", "description"))
        self.predictor = Predictor.load(weights, description)
        _refuse_what_is_ignored(_model_id(weights))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Make one picture a row; MLflow turns errors into status 400 or 500 and a sentence."""
        try:
            requests = read_requests(_rows(model_input), params or {}, self.predictor.G.c_dim)
            pictures = [self.predictor.predict(request) for request in requests]
        except ConfigError as error:
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None
        except CheckpointError as error:
            raise mlflow.MlflowException(str(error), error_code=INTERNAL_ERROR) from None
        texts = [base64.b64encode(png).decode("ascii") for png in pictures]
        return pd.DataFrame({"seed": [request.seed for request in requests], "png": texts})


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as the client meant them: pandas fills what a row leaves out with NaN."""
    # As objects, so that a column of whole numbers next to one of floats stays whole.
    rows = table.astype(object).to_numpy()
    given = [dict(zip(table.columns, row, strict=True)) for row in rows]
    return [{k: v for k, v in row.items() if k == "seed" or not _is_gap(v)} for row in given]


def _is_gap(value: Any) -> bool:
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def example(num_classes: int) -> pd.DataFrame:
    """A request that a model of so many classes answers."""
    return pd.DataFrame([{"seed": 1, "class": 0} if num_classes else {"seed": 1}])


def signature() -> ModelSignature:
    """What goes in and out.

    The columns are of any type on purpose: declared as numbers, MLflow would turn true, "7" and
    1.5 into seeds before we see them.
    """
    columns = [ColSpec(AnyType(), name, required=name == "seed") for name in COLUMNS]
    types = {name: DataType.long if name == "class" else DataType.double for name in PARAMS}
    params = [ParamSpec(name, types[name], default) for name, default in PARAMS.items()]
    outputs = [ColSpec(DataType.long, "seed"), ColSpec(DataType.string, "png")]
    return ModelSignature(Schema(columns), Schema(outputs), ParamSchema(params))


class _RefuseIgnored(logging.Filter):
    """Makes an error of what MLflow would leave out of a request with a mere line in the log.

    MLflow drops columns and params that the signature does not name before the model sees them: a
    misspelt ``psi`` would silently give another picture. The log record is where it can be noticed.
    Only predictions of the models named here are concerned.
    """

    _SIGNS = ("Unrecognized params", "Found extra inputs")

    def __init__(self) -> None:
        super().__init__()
        self.model_ids: set[str | None] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        context = get_prediction_context()
        message = record.getMessage()
        if context and context.model_id in self.model_ids and message.startswith(self._SIGNS):
            names = message[message.find("[") : message.find("]") + 1]
            known = f"columns are {', '.join(COLUMNS)}; params are {', '.join(PARAMS)}"
            sentence = f"unknown names in the request: {names[:200]}; {known}"
            raise mlflow.MlflowException.invalid_parameter_value(sentence)
        return True


def _refuse_what_is_ignored(model_id: str | None) -> None:
    logger = logging.getLogger("mlflow.models.utils")
    present = [f for f in logger.filters if isinstance(f, _RefuseIgnored)]
    refusing = present[0] if present else _RefuseIgnored()
    refusing.model_ids.add(model_id)
    logger.addFilter(refusing)


def _model_id(weights: Path) -> str | None:
    """The id of the model whose artifact this is: MLflow tells it in the file MLmodel."""
    for folder in weights.parents:
        if (folder / "MLmodel").is_file():
            return str(Model.load(str(folder)).model_id)
    return None


set_model(GeneratorModel())
