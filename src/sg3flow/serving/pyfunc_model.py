"""The registered model for MLflow (models from code), without pickle: requests in, images out.

A request has rows, each with a ``seed``, a ``z`` or a ``w``, and optionally ``psi``, ``class``,
``label``, ``translate_x``, ``translate_y``, ``rotate``, ``format``, ``quality``, ``size`` and
``edits``; ``params`` has values for rows without their own (null counts as not given), but no
edits:
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
import copy
import io
import logging
import queue
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types.schema import AnyType, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image as PillowImage

from sg3flow.checkpoints.loading import load_packaged
from sg3flow.device import open_device
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.precision import computing
from sg3flow.rendering.conditions import TrainingLabels, label_tensor
from sg3flow.rendering.edits import Directions, edited, read_directions, resolve_edits
from sg3flow.rendering.grid import resized
from sg3flow.rendering.images import (
    Image,
    RenderedGenerator,
    network_device,
    placed_as,
    png_bytes,
    render_image,
    synthesize,
)
from sg3flow.serving.request_schema import (
    COLUMNS,
    FORMATS,
    PARAMS,
    Limits,
    Request,
    Shapes,
    read_requests,
)
from sg3flow.settings import DEVICE

_logger = logging.getLogger(__name__)

_PARAM_TYPES = dict.fromkeys(PARAMS, DataType.double) | {
    "class": DataType.long,
    "format": DataType.string,
    "quality": DataType.long,
    "size": DataType.long,
}


class Predictor:
    """Generates images with one generator; equal requests give equal bytes.

    Concurrent requests are not batched: in a batch the last bits of an image would depend on the
    other images, because StyleGAN3 normalizes the styles over the batch.

    Args:
        G: the generator, in evaluation mode.
        together: number of images to compute concurrently; they share the CPU cores.
        labels: what is known of the labels it was trained with; None: nothing.
        directions: for the edits of requests; None: it has none.

    Raises:
        CheckpointError: the directions are for a generator of other sizes.
    """

    def __init__(
        self,
        G: RenderedGenerator,
        together: int = 1,
        labels: TrainingLabels | None = None,
        directions: Directions | None = None,
    ) -> None:
        self.G, self.labels = G, labels or TrainingLabels(G.c_dim)
        self.directions = directions
        if directions is not None and directions.vectors.shape[1:] != (G.num_ws, G.w_dim):
            raise CheckpointError("the directions of this model are for a generator of other sizes")
        # The input transform is state of the network, so each copy computes one image at a time.
        self._free: queue.SimpleQueue[RenderedGenerator] = queue.SimpleQueue()
        self._free.put(G)
        for _ in range(together - 1):
            self._free.put(_twin(G))
        if together > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // together))

    @classmethod
    def load(cls, weights: Path, description: Path, directions: Path | None = None) -> "Predictor":
        """A predictor from the files of a package, on the device ``SG3FLOW_DEVICE``.

        Raises:
            CheckpointError: the files are missing, damaged or do not belong together.
            DataError: the directions are damaged.
            ConfigError: there is no such device, or a limit in the environment is not a number.
        """
        together = Limits.from_environment().together
        device = open_device(DEVICE.text())
        network, content = load_packaged(weights, description)
        network.requires_grad_(False).to(device)
        G = cast(RenderedGenerator, network)
        labels = TrainingLabels.read(G.c_dim, content["training_set"])
        known = None if directions is None else read_directions(directions)
        return cls(G, together, labels, known)

    @property
    def shapes(self) -> Shapes:
        """The sizes of the generator."""
        G = self.G
        classes = 0 if self.labels.are_vectors else G.c_dim
        sizes = (G.img_resolution, G.img_channels, G.z_dim, G.w_dim, G.num_ws)
        names = () if self.directions is None else self.directions.names
        return Shapes(classes, *sizes, label_dim=G.c_dim, directions=names)

    def predict(self, request: Request) -> bytes:
        """The image file of a request; concurrent requests do not change its bytes.

        Raises:
            ConfigError: the generator cannot serve the seed, class, options or edits, or a vector
                or an edit leads to values that are not finite.
            CheckpointError: the generator generates values that are not finite.
        """
        request = self._with_offset(request)
        G = self._free.get()
        try:
            image = _drawn(G, request)
        finally:
            self._free.put(G)
        if request.size:
            image = resized(image, request.size)
        return encode(image, request.kind, request.quality)

    def _with_offset(self, request: Request) -> Request:
        """The request with the offset of its edits among its options."""
        if not request.edits:
            return request
        if self.directions is None:
            raise ConfigError("this model was registered without directions; leave edits out")
        edit = resolve_edits(self.directions, request.edits)
        return replace(request, options=replace(request.options, edit=edit))


def encode(image: Image, kind: str, quality: int) -> bytes:
    """An image [H, W, 1 or 3] uint8 as a file; equal pixels give equal bytes on any machine.

    Args:
        kind: one of ``request_schema.FORMATS``.
        quality: 1 to 100, for jpeg and webp; PNG keeps every bit.
    """
    if kind == "png":
        return png_bytes(image)
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    stream = io.BytesIO()
    # No chroma subsampling: it is visible in small images.
    more = {"subsampling": 0} if kind == "jpeg" else {"method": 4}
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    picture.save(stream, kind.upper(), quality=quality, **more)
    return stream.getvalue()


def _drawn(G: RenderedGenerator, request: Request) -> Image:
    if request.seed is not None and request.label is None and not request.edits:
        return render_image(G, request.seed, request.options, request.class_index)
    try:
        if request.seed is not None:
            condition = request.class_index if request.label is None else request.label
            return render_image(G, request.seed, request.options, condition)
        ws = edited(_vector_ws(G, request), request.options.edit)
        with placed_as(G, request.options):
            return synthesize(G, ws, request.options.noise_mode, 0)
    except CheckpointError as error:
        # A vector of the client can overflow float32: a client error, not a server error.
        cause = "edit" if request.edits else "vector"
        raise ConfigError(f"{error}, from this {cause}") from None


def _vector_ws(G: RenderedGenerator, request: Request) -> torch.Tensor:
    """The ws of a request without a seed, [1, num_ws, w_dim]."""
    device = network_device(G)
    if request.ws is not None:
        w = torch.tensor(request.ws, dtype=torch.float32, device=device)  # [1 or num_ws, w_dim]
        return w.expand(G.num_ws, G.w_dim).unsqueeze(0).contiguous()
    z = torch.tensor([request.z], dtype=torch.float32, device=device)  # [1, z_dim]
    condition = request.class_index if request.label is None else request.label
    label = label_tensor(condition, TrainingLabels(G.c_dim)).to(device)
    with torch.no_grad(), computing():
        return G.mapping(z, label, truncation_psi=request.options.psi)


def _twin(G: RenderedGenerator) -> RenderedGenerator:
    """A copy of the network with its own state and shared weights."""
    return copy.deepcopy(G, {id(parameter): parameter for parameter in G.parameters()})


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
        """Load the files of the package."""
        weights, description = (Path(context.artifacts[k]) for k in ("weights", "description"))
        directions = context.artifacts.get("directions")  # not in every package
        self.predictor = Predictor.load(weights, description, directions and Path(directions))
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
