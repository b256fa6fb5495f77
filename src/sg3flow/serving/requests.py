"""Strict reading of what a client sends: rows of columns, and parameters for all rows.

Everything wrong is a ConfigError with one sentence; nothing is guessed, rounded or left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sg3flow.errors import ConfigError, nearest
from sg3flow.rendering.images import Look
from sg3flow.rendering.seeds import MAX_SEED
from sg3flow.serving.encoding import DEFAULT_QUALITY, FORMATS
from sg3flow.serving.limits import Limits
from sg3flow.serving.predictor import Request, Shapes, Vector
from sg3flow.serving.values import number, shown, vector, vectors, whole

MAX_PSI = 2.0
MAX_SHIFT = 10.0
MAX_DEGREES = 360.0
# Far beyond what a mapping network gives; larger numbers only leave the range of float32.
MAX_VALUE = 1000.0

# Where a picture comes from: a row names exactly one.
SOURCES = ("seed", "z", "w")
# Name -> the value that holds where neither row nor parameters give one; None: not set.
PARAMS: dict[str, float | str | None] = {
    "psi": 1.0,
    "class": None,
    "translate_x": 0.0,
    "translate_y": 0.0,
    "rotate": 0.0,
    "format": "png",
    "quality": None,
    "size": None,
}
COLUMNS = (*SOURCES, *PARAMS)


def read_requests(
    rows: Sequence[Mapping[str, Any]], params: Mapping[str, Any], shapes: Shapes, limits: Limits
) -> list[Request]:
    """Check rows and parameters and make requests of them; a row's value wins over the parameter.

    Args:
        rows: one a picture; one of ``SOURCES`` and any of ``PARAMS``.
        params: any of ``PARAMS``, for all rows.
        shapes: what the generator takes and gives.
        limits: how much a request may ask for.

    Raises:
        ConfigError: says which value of which row is wrong, and what was expected.
    """
    if not rows:
        raise ConfigError("the request holds no rows; give at least one, like {'seed': 1}")
    if len(rows) > limits.max_pictures:
        most = limits.max_pictures
        raise ConfigError(f"at most {most} pictures a request, not {len(rows)}; send several")
    check_names("param", params, tuple(PARAMS))
    given = {name: value for name, value in params.items() if not _left_out(name, value)}
    requests = [
        _request(f"row {i}", {**given, **row}, shapes, limits) for i, row in enumerate(rows)
    ]
    _check_pixels(requests, shapes, limits)
    return requests


def check_names(kind: str, given: Mapping[str, Any] | Sequence[str], known: Sequence[str]) -> None:
    """Refuse names nobody knows: a misspelt ``psi`` would silently give another picture.

    Raises:
        ConfigError: an unknown name.
    """
    for name in given:
        if name not in known:
            hint = nearest(str(name), known)
            raise ConfigError(f"unknown {kind} {shown(name)}{hint}; known: {', '.join(known)}")


def _left_out(name: str, value: Any) -> bool:
    # MLflow fills in the params that a request does not give: those are not the client's words.
    return value is None or (name in ("psi", "format") and value == PARAMS[name])


def _request(where: str, values: Mapping[str, Any], shapes: Shapes, limits: Limits) -> Request:
    check_names("column", values, COLUMNS)
    sources = [name for name in SOURCES if values.get(name) is not None]
    if len(sources) != 1:
        found = " and ".join(sources) or "none of them"
        raise ConfigError(f"{where}: give one of seed, z and w, not {found}")
    kind = _kind(where, values)
    return Request(
        seed=whole(f"{where}: seed", values["seed"], 0, MAX_SEED) if "seed" in sources else None,
        look=_look(where, values),
        class_index=_class_index(where, values, shapes.num_classes),
        z=_z(where, values["z"], shapes) if "z" in sources else None,
        ws=_ws(where, values["w"], shapes) if "w" in sources else None,
        kind=kind,
        quality=_quality(where, values, kind),
        size=_size(where, values, shapes, limits),
    )


def _look(where: str, values: Mapping[str, Any]) -> Look:
    if values.get("w") is not None and "psi" in values:
        raise ConfigError(f"{where}: psi does nothing to a w, which is used as it is; leave it out")

    def read(name: str, limit: float) -> float:
        return number(f"{where}: {name}", values.get(name, PARAMS[name]), limit)

    return Look(
        psi=read("psi", MAX_PSI),
        translate=(read("translate_x", MAX_SHIFT), read("translate_y", MAX_SHIFT)),
        rotate=read("rotate", MAX_DEGREES),
    )


def _z(where: str, value: Any, shapes: Shapes) -> Vector:
    return vector(f"{where}: z", value, shapes.z_dim, MAX_VALUE)


def _ws(where: str, value: Any, shapes: Shapes) -> tuple[Vector, ...]:
    return vectors(f"{where}: w", value, shapes.num_ws, shapes.w_dim, MAX_VALUE)


def _class_index(where: str, values: Mapping[str, Any], num_classes: int) -> int | None:
    value = values.get("class")
    if values.get("w") is not None and value is not None:
        raise ConfigError(
            f"{where}: class does nothing to a w, which is used as it is; leave it out"
        )
    if num_classes == 0 and value is not None:
        raise ConfigError(f"{where}: this model has no classes; leave class out")
    if num_classes == 0 or values.get("w") is not None:
        return None
    if value is None:
        raise ConfigError(f"{where}: class is missing; give one from 0 to {num_classes - 1}")
    return whole(f"{where}: class", value, 0, num_classes - 1)


def _kind(where: str, values: Mapping[str, Any]) -> str:
    value = values.get("format", PARAMS["format"])
    if not isinstance(value, str) or value not in FORMATS:
        hint = nearest(value, FORMATS) if isinstance(value, str) else ""
        known = ", ".join(FORMATS)
        raise ConfigError(f"{where}: format must be one of {known}, not {shown(value)}{hint}")
    return value


def _quality(where: str, values: Mapping[str, Any], kind: str) -> int:
    if values.get("quality") is None:
        return DEFAULT_QUALITY
    if kind == "png":
        raise ConfigError(f"{where}: quality is for jpeg and webp; png keeps every bit")
    return whole(f"{where}: quality", values["quality"], 1, 100)


def _size(where: str, values: Mapping[str, Any], shapes: Shapes, limits: Limits) -> int:
    most = limits.side_of(shapes.resolution)
    if values.get("size") is None:
        return most if most < shapes.resolution else 0
    return whole(f"{where}: size", values["size"], 1, most)


def _check_pixels(requests: Sequence[Request], shapes: Shapes, limits: Limits) -> None:
    sides = [request.size or shapes.resolution for request in requests]
    total = sum(side * side * shapes.channels for side in sides)
    if total > limits.max_pixel_bytes:
        raise ConfigError(
            f"the request asks for {total / 2**20:.1f} MiB of pixels, at most "
            f"{limits.max_pixel_bytes / 2**20:.0f} are allowed; ask for fewer pictures or a "
            "smaller size"
        )
