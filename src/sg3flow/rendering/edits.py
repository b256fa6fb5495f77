"""Edits of an image: directions in w, by name, and the offset that their strengths give.

An edited w is ``w + sum(strength * direction)``. A strength is a length in w, so an edit is linear
and the same for every image; ``scales`` of a file has the natural step of each direction. Without
torch: a server checks the edits of requests with it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError, DataError, cut, described, listed, nearest
from sg3flow.files import atomic_write
from sg3flow.rendering.npz_file import read_npz

if TYPE_CHECKING:
    import torch

MAX_STRENGTH = 1000.0  # far outside any w; larger ones would only overflow

Offset = npt.NDArray[np.float32]

_KEYS = ("directions", "names", "values", "scales", "method", "layers", "network")
_WHAT = "a directions file of `sg3flow directions`"
_MOST = 4096  # directions in a file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_NAMES = 10


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions in w, each with a name.

    Attributes:
        vectors: float32 [K, num_ws, w_dim]; of unit length in each layer that a direction edits,
            zero in the others.
        names: of the directions, [K].
        values: float64 [K], eigenvalues (``sefa``) or variances of w (``pca``).
        scales: float64 [K], standard deviation of w along each direction: its natural step.
        method: ``sefa``, ``pca`` or another word.
        layers: numbers of the layers that are edited.
        network: SHA-256 of the weights of the generator they belong to; empty: unknown.
    """

    vectors: npt.NDArray[np.float32]
    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    scales: npt.NDArray[np.float64]
    method: str
    layers: tuple[int, ...]
    network: str


def write_directions(path: Path, directions: Directions) -> None:
    """Write a ``directions.npz``; equal directions give equal bytes.

    Raises:
        OSError: writing failed; an earlier file is then unchanged.
    """
    arrays = {
        "directions": directions.vectors,
        "names": np.array(directions.names),
        "values": directions.values,
        "scales": directions.scales,
        "method": np.array(directions.method),
        "layers": np.array(directions.layers, np.int64),
        "network": np.array(directions.network),
    }
    with atomic_write(path) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def read_directions(path: Path) -> Directions:
    """The directions of a file of ``write_directions``; nothing in the file is executed.

    Raises:
        DataError: the file is missing or damaged, or an array has another form.
    """
    found = read_npz(path, _KEYS, _WHAT)
    try:
        return _checked(found)
    except ValueError as error:
        raise DataError(f"{path} is not {_WHAT}: {error}") from None


def resolve_edits(directions: Directions, strengths: Mapping[str, float]) -> Offset:
    """The offset of w of some edits, [num_ws, w_dim]: the sum of ``strength * direction``.

    Args:
        strengths: strength of each direction by its name, in units of w.

    Raises:
        ConfigError: an unknown name, or a strength that is no number from -1000 to 1000.
    """
    factors = np.zeros(len(directions.names))
    for name, strength in strengths.items():
        factors[_index(directions, name)] = _strength(name, strength)
    total = np.tensordot(factors, directions.vectors.astype(np.float64), axes=1)
    return total.astype(np.float32)


def edited(ws: "torch.Tensor", edit: Offset | None) -> "torch.Tensor":
    """``ws`` [N, num_ws, w_dim] moved by an offset [num_ws, w_dim]; None or zeros: unchanged.

    Raises:
        ConfigError: the offset is for a network of other sizes.
    """
    if edit is None or not _moves(edit, tuple(ws.shape[1:])):
        return ws
    return ws + ws.new_tensor(edit)


def edited_w(ws: npt.NDArray[np.float32], edit: Offset | None) -> npt.NDArray[np.float32]:
    """``edited`` for arrays: ``ws`` float32 [N, num_ws, w_dim]."""
    if edit is None or not _moves(edit, ws.shape[1:]):
        return ws
    return ws + edit


def _moves(edit: Offset, sizes: tuple[int, ...]) -> bool:
    """Whether the offset, which must have these sizes, is not zero.

    Adding a zero would turn -0 into 0.
    """
    if edit.shape != sizes:
        raise ConfigError(
            f"the edit is for a network with w of {list(edit.shape)}, this one has {list(sizes)}; "
            "use the directions of this network"
        )
    return bool(edit.any())


def parse_edits(given: Iterable[str]) -> dict[str, float]:
    """``NAME=STRENGTH`` of a command line by name.

    Raises:
        ConfigError: another form, or the same name twice.
    """
    strengths: dict[str, float] = {}
    for text in given:
        name, equals, number = text.partition("=")
        try:
            strength = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigError(f"an edit must be NAME=STRENGTH such as pca0=1.5, not '{cut(text)}'")
        if name in strengths:
            raise ConfigError(f"the edit {cut(name)} is given twice; give one strength")
        strengths[name] = strength
    return strengths


def _index(directions: Directions, name: object) -> int:
    if name in directions.names:
        return directions.names.index(str(name))
    hint = nearest(name, directions.names) if isinstance(name, str) else ""
    known = listed(directions.names, _MOST_NAMES)
    raise ConfigError(f"no direction {described(name)}{hint}; known: {known}")


def _strength(name: str, value: object) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if is_number and not isinstance(value, bool) and -MAX_STRENGTH <= value <= MAX_STRENGTH:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise ConfigError(
        f"the strength of {name} must be a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, not "
        f"{described(value)}"
    )


def _checked(found: Mapping[str, npt.NDArray[Any]]) -> Directions:
    vectors = _numbers(found, "directions", 3).astype(np.float32)
    count = len(vectors)
    if not 0 < count <= _MOST or 0 in vectors.shape:
        raise ValueError(f"'directions' has the shape {list(vectors.shape)}")
    is_list = found["names"].ndim == 1 and found["names"].dtype.kind == "U"
    names = tuple(map(str, found["names"])) if is_list else ()
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"'names' must be {count} different names, one per direction")
    if bad := [name for name in names if not _NAME.fullmatch(name)]:
        rule = "letters, digits and . _ -, at most 64"
        raise ValueError(f"a name must be {rule}, not {cut(ascii(bad[0]))}")
    scales = _numbers(found, "scales", 1).astype(np.float64)
    values = _numbers(found, "values", 1).astype(np.float64)
    if len(scales) != count or len(values) != count or (scales < 0).any():
        raise ValueError(f"'values' and 'scales' must be {count} numbers, scales at least 0")
    layers = tuple(map(int, _numbers(found, "layers", 1)))
    if any(not 0 <= layer < vectors.shape[1] for layer in layers):
        raise ValueError(f"'layers' must be from 0 to {vectors.shape[1] - 1}")
    return Directions(
        vectors,
        names,
        values,
        scales,
        _text(found, "method"),
        layers,
        _text(found, "network"),
    )


def _numbers(found: Mapping[str, npt.NDArray[Any]], name: str, ndim: int) -> npt.NDArray[Any]:
    array = found[name]
    if array.ndim != ndim or array.dtype.kind == "U":
        raise ValueError(f"'{name}' must be an array of numbers with {ndim} dimensions")
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(array.astype(np.float32)).all()
    if not is_finite:
        raise ValueError(f"'{name}' has values that are not finite in float32")
    return array


def _text(found: Mapping[str, npt.NDArray[Any]], name: str) -> str:
    array = found[name]
    if array.ndim or array.dtype.kind != "U" or len(str(array)) > 200:
        raise ValueError(f"'{name}' must be one short text")
    return str(array)


def is_directions_file(path: Path) -> bool:
    """Whether ``sg3flow directions`` may replace a file: it is a whole directions file."""
    try:
        read_directions(path)
    except DataError:
        return False
    return True
