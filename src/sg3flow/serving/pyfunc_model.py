"""The registered model for MLflow (models from code): a thin adapter without pickle.

A request has rows, each with a ``seed``, a ``z`` or a ``w``, and optionally ``psi``, ``class``,
``label``, ``translate_x``, ``translate_y``, ``rotate``, ``format``, ``quality`` and ``size``;
``params`` has values for rows without their own (null counts as not given):
``{"dataframe_records": [{"seed": 1}], "params": {"psi": 0.7}}``. The answer is
``{"predictions": [{"seed": 1, "png": "<base64>"}]}``, one entry per row, in order; jpeg and webp
have their own keys. An invalid value gives status 400 and a sentence; a model that generates values
that are not finite gives status 500.

MLflow drops or changes some input before it calls ``predict`` (unknown names, duplicate keys, NaN);
``model_app.py`` therefore checks the body before MLflow reads it.

The environment variable ``SG3FLOW_DEVICE`` selects the device: ``auto`` (default: CUDA if
available), ``cpu`` or ``cuda``. ``request_schema.py`` has the limits.
"""

import base64
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.serving.predictor import Predictor
from sg3flow.serving.request_schema import COLUMNS, FORMATS, PARAMS, Limits, Request, read_requests

_logger = logging.getLogger(__name__)

_PARAM_TYPES = dict.fromkeys(PARAMS, DataType.double) | {
    "class": DataType.long,
    "format": DataType.string,
    "quality": DataType.long,
    "size": DataType.long,
}


class PredictionError(mlflow.MlflowException):  # type: ignore[misc]  # MLflow is untyped here
    """An error with a fixed message.

    MLflow's server would replace it by one that starts with the whole request.
    """

    @property
    def message(self) -> str:
        """One sentence for the client."""
        return self._sentence

    @message.setter
    def message(self, text: str) -> None:
        self._sentence: str = getattr(self, "_sentence", text)


class GeneratorModel(PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """Seeds and vectors in, images out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the two files of the package."""
        weights, description = (Path(context.artifacts[k]) for k in ("weights", "description"))
        self.predictor = Predictor.load(weights, description)
        self.limits = Limits.from_environment()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Generate one image per row; errors become status 400 or 500 and a sentence."""
        try:
            rows, shapes = _rows(model_input), self.predictor.shapes
            requests = read_requests(rows, params or {}, shapes, self.limits)
            images = [self.predictor.predict(request) for request in requests]
        except ConfigError as error:
            raise PredictionError(str(error), INVALID_PARAMETER_VALUE) from None
        except CheckpointError as error:
            raise PredictionError(str(error), INTERNAL_ERROR) from None
        except Exception:  # MLflow would send status 400 and the traceback
            _logger.exception("a request failed")
            sentence = "the server failed on this request; its log has the details"
            raise PredictionError(sentence, INTERNAL_ERROR) from None
        return [_answer(*pair) for pair in zip(requests, images, strict=True)]


def _answer(request: Request, image: bytes) -> dict[str, Any]:
    content = {request.kind: base64.b64encode(image).decode("ascii")}
    return content if request.seed is None else {"seed": request.seed} | content


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as sent by the client: values that pandas filled with NaN are removed."""
    # As objects, so that integer columns next to float columns stay integers.
    rows = table.astype(object).to_numpy()
    given = [dict(zip(table.columns, row, strict=True)) for row in rows]
    return [{k: v for k, v in row.items() if not _is_gap(v)} for row in given]


def _is_gap(value: Any) -> bool:
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def example(training_set: Mapping[str, Any]) -> pd.DataFrame:
    """An example request for a model, from the description of its training set."""
    row: dict[str, Any] = {"seed": 1}
    if training_set.get("sample_labels"):
        row["label"] = training_set["sample_labels"][0]
    elif training_set.get("label_dim"):
        row["class"] = 0
    return pd.DataFrame([row])


def signature() -> ModelSignature:
    """The input and output schema.

    Columns have type "any" on purpose: if declared as numbers, MLflow would convert true, "7" and
    1.5 to seeds before our checks.
    """
    columns = [ColSpec(AnyType(), name, required=False) for name in COLUMNS]
    params = [
        ParamSpec(name, _PARAM_TYPES[name], default)
        for name, default in PARAMS.items()
        if name != "label"
    ]
    params.append(ParamSpec("label", DataType.double, [], (-1,)))  # MLflow has no list of None
    images = [ColSpec(DataType.string, kind, required=False) for kind in FORMATS]
    outputs = [ColSpec(DataType.long, "seed", required=False), *images]
    return ModelSignature(Schema(columns), Schema(outputs), ParamSchema(params))


set_model(GeneratorModel())
