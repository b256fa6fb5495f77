"""The schema of requests: limits, the pydantic model of a row, and error messages.

A row asks for one image; ``params`` apply to rows without their own value. The schema belongs to
one generator, whose sizes limit the values. Every problem is a ConfigError with one sentence that
names the row, the field, what was expected and what was found; nothing is guessed, rounded or
ignored. pydantic validates; the messages are our own, because those of pydantic are written for
programmers and take several lines.

Longer than most files: schema, limits and messages belong together.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from sg3flow import settings
from sg3flow.errors import ConfigError, cut, nearest
from sg3flow.rendering.edits import MAX_STRENGTH
from sg3flow.rendering.seeds import MAX_SEED, RenderOptions
from sg3flow.serving.request_edits import RULE, check_edits, edits_field

MAX_PSI = 2.0
MAX_SHIFT = 10.0
MAX_DEGREES = 360.0
# Far larger than any output of a mapping network; larger values would only overflow float32.
MAX_COORDINATE = 1000.0
# Labels are what the training set has; a network scales them.
MAX_LABEL = 1e30
FORMATS = ("png", "jpeg", "webp")
DEFAULT_QUALITY = 90

# The source of an image: a row has exactly one.
SOURCES = ("seed", "z", "w")
# Name -> default if neither row nor params give a value; None: not set.
PARAMS: dict[str, float | str | None] = {
    "psi": 1.0,
    "class": None,
    "label": None,
    "translate_x": 0.0,
    "translate_y": 0.0,
    "rotate": 0.0,
    "format": "png",
    "quality": None,
    "size": None,
}
EDITS = "edits"
COLUMNS = (*SOURCES, *PARAMS, EDITS)

Vector = tuple[float, ...]
_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits: images per request, side in pixels (0: any), bytes, concurrent images."""

    max_pictures: int = 64
    max_side: int = 0
    max_pixel_bytes: int = 64 * _MIB
    max_body_bytes: int = 16 * _MIB
    together: int = 1

    @classmethod
    def from_environment(cls) -> "Limits":
        """The limits of this process.

        Raises:
            ConfigError: a variable is not a number in its range.
        """
        return cls(
            settings.SERVE_MAX_PICTURES.whole_number(),
            settings.SERVE_MAX_SIDE.whole_number(),
            settings.SERVE_MAX_PIXEL_MIB.whole_number() * _MIB,
            settings.SERVE_MAX_BODY_MIB.whole_number() * _MIB,
            settings.SERVE_TOGETHER.whole_number(),
        )

    def side_of(self, resolution: int) -> int:
        """The largest allowed side of an image for a network of ``resolution`` pixels."""
        return min(resolution, self.max_side) if self.max_side else resolution


@dataclass(frozen=True)
class Shapes:
    """The sizes of a generator, for checks of requests.

    Attributes:
        num_classes: 0: it has no labels, or they are vectors.
        label_dim: length of a label; 0: it has none.
        directions: names of the directions for edits; empty: it has none.
    """

    num_classes: int
    resolution: int
    channels: int
    z_dim: int
    w_dim: int
    num_ws: int
    label_dim: int = 0
    directions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One image to generate, from a seed, a z or ws.

    Args:
        seed: 0 to 2^32 - 1; None if a vector is given.
        options: truncation (of a seed or z), translation, rotation.
        class_index: the class for a conditional network; None for others, and for ws.
        z: a latent of z_dim numbers, instead of a seed.
        ws: one w of w_dim numbers for all layers, or one per layer; used without truncation.
        kind: png, jpeg or webp.
        quality: 1 to 100, for jpeg and webp.
        size: side of the image in pixels; 0: resolution of the network.
        label: a label vector, instead of a class.
        edits: strengths of directions by name, in units of w.
    """

    seed: int | None
    options: RenderOptions = field(default_factory=RenderOptions)
    class_index: int | None = None
    z: Vector | None = None
    ws: tuple[Vector, ...] | None = None
    kind: str = "png"
    quality: int = DEFAULT_QUALITY
    size: int = 0
    label: Vector | None = None
    edits: Mapping[str, float] = field(default_factory=dict)


def read_requests(
    rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any], shapes: Shapes, limits: Limits
) -> list[Request]:
    """Check rows and params and convert them to requests; a row's value overrides the param.

    Args:
        rows: one per image; one of ``SOURCES``, and any of ``PARAMS`` and ``edits``.
        params: any of ``PARAMS``, for all rows.
        shapes: sizes of the generator.
        limits: limits of a request.

    Raises:
        ConfigError: a value is invalid; the message names the row and what was expected.
    """
    if not rows:
        raise ConfigError("the request has no rows; give at least one, such as {'seed': 1}")
    if len(rows) > limits.max_pictures:
        most = limits.max_pictures
        raise ConfigError(
            f"at most {most} images per request, not {len(rows)}; send several requests"
        )
    check_names("param", params, tuple(PARAMS))
    given = {name: value for name, value in params.items() if not _is_default(name, value)}
    requests = [
        _read_row(f"row {i}", {**given, **row}, shapes, limits) for i, row in enumerate(rows)
    ]
    _check_pixels(requests, shapes, limits)
    return requests


def check_names(kind: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse unknown names: a misspelled ``psi`` would silently have no effect.

    Raises:
        ConfigError: an unknown name.
    """
    for name in given:
        if name not in known:
            hint = nearest(str(name), known)
            raise ConfigError(f"unknown {kind} {shown(name)}{hint}; known: {', '.join(known)}")


def shown(value: Any) -> str:
    """A value for an error message: short and safe in a terminal."""
    item = value.item() if isinstance(value, np.generic) else value
    if isinstance(item, int) and abs(item) >= 10**60:
        return "a huge number"  # converting it to text may take minutes
    if isinstance(item, list | tuple | dict | np.ndarray):
        return f"{'an object' if isinstance(item, dict) else 'a list'} of {len(item)}"
    return ascii(item)[:60]


def _is_default(name: str, value: Any) -> bool:
    # MLflow fills in the defaults of params; they do not come from the client.
    if name == "label":
        return value is None or (isinstance(value, list | np.ndarray) and len(value) == 0)
    return value is None or (name in ("psi", "format") and value == PARAMS[name])


def _check_pixels(requests: Sequence[Request], shapes: Shapes, limits: Limits) -> None:
    sides = [request.size or shapes.resolution for request in requests]
    total = sum(side * side * shapes.channels for side in sides)
    if total > limits.max_pixel_bytes:
        raise ConfigError(
            f"the request asks for {total / 2**20:.1f} MiB of pixels, at most "
            f"{limits.max_pixel_bytes / 2**20:.0f} are allowed; ask for fewer images or a "
            "smaller size"
        )


def _read_row(where: str, values: Mapping[str, Any], shapes: Shapes, limits: Limits) -> Request:
    check_names("column", values, COLUMNS)
    check_edits(where, values.get(EDITS), shapes.directions)
    schema = row_schema(shapes, limits.side_of(shapes.resolution))
    try:
        row = schema.model_validate(values).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(_sentence(where, first, values, schema)) from None
    _check_together(where, row, "psi" in values)
    _check_condition(where, row, shapes)
    return _request(row, shapes, limits)


def _request(row: Mapping[str, Any], shapes: Shapes, limits: Limits) -> Request:
    w, side = row["w"], limits.side_of(shapes.resolution)
    if w is not None and not isinstance(w[0], list):
        w = [w]
    return Request(
        seed=row["seed"],
        options=RenderOptions(
            psi=row["psi"],
            translate=(row["translate_x"], row["translate_y"]),
            rotate=row["rotate"],
        ),
        class_index=row["class"],
        label=None if row["label"] is None else tuple(row["label"]),
        z=None if row["z"] is None else tuple(row["z"]),
        ws=None if w is None else tuple(map(tuple, w)),
        kind=row["format"],
        quality=DEFAULT_QUALITY if row["quality"] is None else row["quality"],
        size=row["size"] or (side if side < shapes.resolution else 0),
        edits=row[EDITS] or {},
    )


def _check_together(where: str, row: Mapping[str, Any], has_psi: bool) -> None:
    """The rules between the fields of a row."""
    sources = [name for name in SOURCES if row[name] is not None]
    if len(sources) != 1:
        found = " and ".join(sources) or "none of them"
        raise ConfigError(f"{where}: give one of seed, z and w, not {found}")
    given = {"psi": has_psi} | {name: row[name] is not None for name in ("class", "label")}
    for name, is_given in given.items():
        if sources == ["w"] and is_given:
            raise ConfigError(f"{where}: {name} has no effect on a w; leave it out")
    if row["format"] == "png" and row["quality"] is not None:
        raise ConfigError(f"{where}: quality is for jpeg and webp; png keeps every bit")


def _check_condition(where: str, row: Mapping[str, Any], shapes: Shapes) -> None:
    """Class or label: one of them, and of the kind that the generator was trained with."""
    has_class, has_label = row["class"] is not None, row["label"] is not None
    vector = f"label, a list of {shapes.label_dim} numbers"
    if has_class and has_label:
        raise ConfigError(f"{where}: give class or label, not both")
    if has_class and shapes.num_classes == 0:
        advice = f"give {vector}" if shapes.label_dim else "leave class out"
        raise ConfigError(f"{where}: this model has no classes; {advice}")
    if has_label and shapes.label_dim == 0:
        raise ConfigError(f"{where}: this model has no labels; leave label out")
    if has_class or has_label or row["w"] is not None:
        return
    if shapes.num_classes:
        raise ConfigError(f"{where}: class is missing; give one from 0 to {shapes.num_classes - 1}")
    if shapes.label_dim:
        raise ConfigError(f"{where}: label is missing; give {vector}")


@functools.cache
def row_schema(shapes: Shapes, max_side: int) -> type[BaseModel]:
    """The fields of a row, for a generator of these sizes and images of up to ``max_side``."""
    number = _number(MAX_COORDINATE)
    one = _list_of(number, shapes.w_dim)
    layers = _annotated(_list_of(one, shapes.num_ws), Tag("layers"))
    either = _annotated(_annotated(one, Tag("one")) | layers, Discriminator(_w_form))
    w = _annotated(either, BeforeValidator(_primitive)) | None
    z = _annotated(_list_of(number, shapes.z_dim), BeforeValidator(_primitive)) | None
    class_index = _whole_field(0, shapes.num_classes - 1) if shapes.num_classes else (Any, None)
    coordinate = _list_of(_number(MAX_LABEL), shapes.label_dim)
    label = _annotated(coordinate, BeforeValidator(_primitive)) | None
    fields = {
        "seed": _whole_field(0, MAX_SEED),
        "z": (z, Field(None, description=f"a list of {shapes.z_dim} numbers")),
        "w": (w, Field(None, description=f"a list of {shapes.w_dim} numbers")),
        "psi": _number_field(1.0, MAX_PSI),
        "class": class_index,
        "label": (
            label if shapes.label_dim else Any,
            Field(None, description=f"a list of {shapes.label_dim} numbers"),
        ),
        "translate_x": _number_field(0.0, MAX_SHIFT),
        "translate_y": _number_field(0.0, MAX_SHIFT),
        "rotate": _number_field(0.0, MAX_DEGREES),
        "format": (
            Literal[FORMATS],
            Field(FORMATS[0], description=f"one of {', '.join(FORMATS)}"),
        ),
        "quality": _whole_field(1, 100),
        "size": _whole_field(1, max_side),
        EDITS: edits_field(_annotated(_number(MAX_STRENGTH), BeforeValidator(_primitive))),
    }
    config = ConfigDict(strict=True, extra="forbid", frozen=True)
    return create_model("Row", __config__=config, **fields)


def _whole_field(low: int, high: int) -> Any:
    kind = Annotated[int, Field(ge=low, le=high), BeforeValidator(_whole)]
    return kind | None, Field(None, description=f"a whole number from {low} to {high}")


def _number_field(default: float, limit: float) -> Any:
    kind = _annotated(_number(limit), BeforeValidator(_primitive))
    return kind, Field(default, description=_number_words(limit))


def _annotated(kind: Any, *metadata: Any) -> Any:
    return Annotated[kind, *metadata]


def _number(limit: float) -> Any:
    return Annotated[float, Field(ge=-limit, le=limit, allow_inf_nan=False)]


def _number_words(limit: float) -> str:
    return f"a number from {-limit:g} to {limit:g}"


def _list_of(item: Any, length: int) -> Any:
    def check(value: Any) -> Any:
        # Before the items are checked, so that the error is about the length.
        if isinstance(value, list) and len(value) != length:
            raise PydanticCustomError("list_length", "another length", {"length": length})
        return value

    return Annotated[list[item], BeforeValidator(check)]


def _w_form(value: Any) -> str:
    return "layers" if isinstance(value, list) and value and isinstance(value[0], list) else "one"


def _whole(value: Any) -> Any:
    # Whole floats are accepted: JSON's 1.0, and pandas' form of integer columns with gaps.
    item = _primitive(value)
    return int(item) if isinstance(item, float) and item.is_integer() else item


def _primitive(value: Any) -> Any:
    """A value as plain JSON types: pandas and MLflow pass NumPy scalars and arrays."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list | tuple):
        return [_primitive(item) for item in value]
    return value


def _sentence(
    where: str, error: ErrorDetails, values: Mapping[str, Any], schema: type[BaseModel]
) -> str:
    """One sentence for an error of pydantic: where, what was expected, and what was found."""
    name, path, kind = str(error["loc"][0]), error["loc"][1:], error["type"]
    if name == EDITS and path:
        found = shown(values[EDITS][path[0]])
        return f"{where}: edits.{cut(str(path[0]))} must be {RULE}, not {found}"
    indices = [step for step in path if isinstance(step, int)]
    found = functools.reduce(lambda value, i: value[i], indices, values[name])
    label = f"{where}: {name}" + "".join(f"[{i}]" for i in indices)
    if kind == "list_length" and path == ("layers",):
        length = error["ctx"]["length"]
        return f"{label} must be one list or a list of {length} lists, not of {len(found)}"
    if kind == "list_length":
        return f"{label} must be a list of {error['ctx']['length']} numbers, not {len(found)}"
    expected = schema.model_fields[name].description
    if name in ("z", "w", "label") and kind != "list_type":
        expected = _number_words(MAX_LABEL if name == "label" else MAX_COORDINATE)
    hint = nearest(found, FORMATS) if name == "format" and isinstance(found, str) else ""
    return f"{label} must be {expected}, not {shown(found)}{hint}"
