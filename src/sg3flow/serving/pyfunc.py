"""The registered model as MLflow loads it (models from code): a thin adapter, no pickle.

A request is rows with a ``seed``, a ``z`` or a ``w`` each, and optionally ``psi``, ``class``,
``translate_x``, ``translate_y``, ``rotate``, ``format``, ``quality`` and ``size``, in the row or as
``params`` for the rows that give none (a null counts as none):
``{"dataframe_records": [{"seed": 1}], "params": {"psi": 0.7}}``. The answer is
``{"predictions": [{"seed": 1, "png": "<base64>"}]}``, one a row, in order; jpeg and webp stand
under those names. Whatever is wrong with a request is answered by status 400 (413: too long, 415:
not JSON) and a sentence; a model that draws no finite values, by 500.

The environment variable ``SG3FLOW_DEVICE`` says where pictures are made: ``auto`` (if it is not
set: the CUDA device if there is one), ``cpu`` or ``cuda``. ``limits.py`` has the others.
"""

import asyncio
import base64
import functools
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import INTERNAL_ERROR
from mlflow.models import Model, ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext, scoring_server
from mlflow.pyfunc.context import get_prediction_context
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema

from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.serving.bodies import Refused, check_body, check_content_type, read_body
from sg3flow.serving.encoding import FORMATS
from sg3flow.serving.limits import Limits
from sg3flow.serving.predictor import Predictor, Request
from sg3flow.serving.requests import COLUMNS, PARAMS, read_requests

_logger = logging.getLogger(__name__)
_MAX_SENTENCE = 1000


_PARAM_TYPES = dict.fromkeys(PARAMS, DataType.double) | {
    "class": DataType.long,
    "format": DataType.string,
    "quality": DataType.long,
    "size": DataType.long,
}


class GeneratorModel(PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """Seeds and vectors in, pictures out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the package's two files."""
        weights, description = (Path(context.artifacts[k]) for k in ("weights", "description"))
        self.predictor, self.limits = (
            Predictor.load(weights, description),
            Limits.from_environment(),
        )
        _refuse_what_is_ignored(_model_id(weights))
        guard_server()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Make one picture a row; MLflow turns errors into status 400 or 500 and a sentence."""
        try:
            rows, shapes = _rows(model_input), self.predictor.shapes
            requests = read_requests(rows, params or {}, shapes, self.limits)
            pictures = [self.predictor.predict(request) for request in requests]
        except ConfigError as error:
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None
        except CheckpointError as error:
            raise mlflow.MlflowException(str(error), error_code=INTERNAL_ERROR) from None
        return [_answer(*pair) for pair in zip(requests, pictures, strict=True)]


def _answer(request: Request, picture: bytes) -> dict[str, Any]:
    content = {request.kind: base64.b64encode(picture).decode("ascii")}
    return content if request.seed is None else {"seed": request.seed} | content


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as the client meant them: pandas fills what a row leaves out with NaN."""
    # As objects, so that a column of whole numbers next to one of floats stays whole.
    rows = table.astype(object).to_numpy()
    given = [dict(zip(table.columns, row, strict=True)) for row in rows]
    return [{k: v for k, v in row.items() if not _is_gap(v)} for row in given]


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
    columns = [ColSpec(AnyType(), name, required=False) for name in COLUMNS]
    params = [ParamSpec(name, _PARAM_TYPES[name], default) for name, default in PARAMS.items()]
    pictures = [ColSpec(DataType.string, kind, required=False) for kind in FORMATS]
    outputs = [ColSpec(DataType.long, "seed", required=False), *pictures]
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


def guard_server() -> None:
    """Put our checks before MLflow's scoring server, if this process is going to be one.

    The server wraps its handler in this function when it starts, after the model was loaded: the
    only place to stand before the body is read. Handlers of other models are left alone.
    """
    wrapped = scoring_server._async_catch_mlflow_exception
    if getattr(wrapped, "is_sg3flow_guard", False):
        return

    def catch(handler: Callable[..., Any]) -> Callable[..., Any]:
        served = inspect.getclosurevars(handler).nonlocals.get("model")
        return _guarded(handler) if _is_ours(served) else wrapped(handler)

    catch.is_sg3flow_guard = True  # type: ignore[attr-defined]
    scoring_server._async_catch_mlflow_exception = catch


def _is_ours(served: Any) -> bool:
    model = getattr(served, "_model_impl", None)
    return isinstance(getattr(model, "python_model", None), GeneratorModel)


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    limits = Limits.from_environment()

    @functools.wraps(handler)
    async def guarded(request: Any) -> Any:
        from fastapi.responses import JSONResponse

        try:
            headers = request.headers
            check_content_type(headers.get("content-type"))
            declared = headers.get("content-length")
            body = await read_body(request.stream(), declared, limits.max_body_bytes)
            await asyncio.to_thread(check_body, body)
            request._body = body  # where Request.body() looks first
            return await handler(request)
        except Refused as error:
            status, code, sentence = error.status, "BAD_REQUEST", str(error)
        except mlflow.MlflowException as error:
            status, code, sentence = _worded(error)
        return JSONResponse({"error_code": code, "message": sentence}, status)

    return guarded


def _worded(error: mlflow.MlflowException) -> tuple[int, str, str]:
    """Status, code and sentence of an error; what the client has no use for stays in our log."""
    if "stack_trace" in error.json_kwargs:
        _logger.error("a request failed: %s\n%s", error, error.json_kwargs["stack_trace"])
        sentence = "the server failed at this request; its log says where"
        return 500, "INTERNAL_ERROR", sentence
    # MLflow puts the whole request before the reason.
    sentence = " ".join(error.message.rpartition("\nError: ")[2].split())
    return error.get_http_status_code(), error.error_code, sentence[:_MAX_SENTENCE]


set_model(GeneratorModel())
