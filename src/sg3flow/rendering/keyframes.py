"""Keyframes of a path through latent space, from a CSV or JSON file or from Python.

A keyframe is a seed or a w, with its place: psi, shift, angle, class or label, and edits. Nothing
is guessed or ignored: a problem is one sentence that names the file and the row.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sg3flow.errors import ConfigError, DataError, Sg3flowError, cut, described, listed, nearest
from sg3flow.rendering.call_arguments import (
    MOST_DEGREES,
    MOST_PSI,
    label_of,
    number_of,
    refuse,
    seed_of,
    whole_number,
)
from sg3flow.rendering.conditions import Vector, parse_label
from sg3flow.rendering.edits import MAX_STRENGTH
from sg3flow.rendering.outputs import MAX_SHIFT
from sg3flow.rendering.w_files import MOST_WS

MOST_KEYFRAMES = 1000

_NAMES = ("seed", "w", "index", "psi", "x", "y", "angle", "class", "label", "edits")
_EDIT = "edit:"  # a column of a CSV file: edit:NAME
_COLUMNS = (*_NAMES[:-1], f"{_EDIT}NAME")
_MOST_BYTES = 16 << 20
_MOST_CLASS = 10**9
_WHAT = "a file of keyframes, .csv or .json"


@dataclass(frozen=True)
class Keyframe:
    """One keyframe; None: not given, so that the options of the command decide.

    Attributes:
        where: the file and row, for messages.
        seed: or ``w``: exactly one of them.
        w: a file of w; ``index`` is the number of the w in it, None if it has only one.
        psi: truncation psi of a seed.
        x, y: shift in image widths; ``angle``: rotation in degrees.
        class_: number or name of a class; ``label``: instead of it, the numbers of a label.
        edits: strengths by name of the direction.
    """

    where: str
    seed: int | None = None
    w: Path | None = None
    index: int | None = None
    psi: float | None = None
    x: float | None = None
    y: float | None = None
    angle: float | None = None
    class_: int | str | None = None
    label: Vector | None = None
    edits: dict[str, float] = field(default_factory=dict)


def read_keyframes(path: Path) -> list[Keyframe]:
    """The keyframes of a file.

    Args:
        path: ``.csv`` with a header row, or ``.json``, a list of objects; UTF-8. A relative path
            of a w is relative to the folder of this file.

    Raises:
        DataError: there is no such file, or it is not of its form.
        ConfigError: a keyframe is invalid, or there are none or more than 1000.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise ConfigError(f"{path} must be {_WHAT}")
    text = _text(path)
    if suffix == ".json":
        return keyframes_of(_objects(text, path), str(path), path.parent)
    rows = dict(_rows(text, path))
    return _keyframes(rows, str(path), path.parent)


def keyframes_of(rows: object, source: str, folder: Path) -> list[Keyframe]:
    """The keyframes of a list of objects, as a JSON file has them.

    Args:
        rows: mappings with the names of ``Keyframe``, ``class`` and ``edits`` included.
        source: what they come from, for messages.
        folder: of the files of w.

    Raises:
        ConfigError: as ``read_keyframes``.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        raise ConfigError(f"{source} must be a list of keyframes, not {described(rows)}")
    return _keyframes({f"keyframe {i}": row for i, row in enumerate(rows, 1)}, source, folder)


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Begin errors inside the block with the file and the row."""
    try:
        yield
    except Sg3flowError as error:
        raise type(error)(f"{where}: {error}") from None


def _keyframes(rows: Mapping[str, object], source: str, folder: Path) -> list[Keyframe]:
    if not rows:
        raise ConfigError(f"{source} has no keyframes; give at least one, such as a seed")
    if len(rows) > MOST_KEYFRAMES:
        raise ConfigError(f"{source} has more than {MOST_KEYFRAMES} keyframes; use several files")
    found = []
    for name, row in rows.items():
        where = f"{source}, {name}"
        with naming(where):
            found.append(_keyframe(row, where, folder))
    return found


def _keyframe(row: object, where: str, folder: Path) -> Keyframe:
    if not isinstance(row, Mapping):
        raise ConfigError(f"must be an object such as {{'seed': 1}}, not {described(row)}")
    _check_names(row, _NAMES)
    given = {name: value for name, value in row.items() if value is not None}
    _check_together(given)
    label = given.get("label")
    return Keyframe(
        where,
        seed=seed_of(given["seed"]) if "seed" in given else None,
        w=folder / _path(given["w"]) if "w" in given else None,
        index=whole_number("index", given["index"], 0, MOST_WS - 1) if "index" in given else None,
        psi=_number(given, "psi", MOST_PSI),
        x=_number(given, "x", MAX_SHIFT),
        y=_number(given, "y", MAX_SHIFT),
        angle=_number(given, "angle", MOST_DEGREES),
        class_=_class(given["class"]) if "class" in given else None,
        label=None if label is None else _label(label),
        edits=_edits(given.get("edits", {})),
    )


def _check_names(names: Mapping[str, object], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            hint = nearest(name, known) if isinstance(name, str) else ""
            raise ConfigError(f"unknown column {described(name)}{hint}; known: {', '.join(known)}")


def _check_together(given: Mapping[str, object]) -> None:
    if ("seed" in given) == ("w" in given):
        raise ConfigError(f"give one of seed and w, not {'both' if 'seed' in given else 'none'}")
    if "class" in given and "label" in given:
        raise ConfigError("give class or label, not both")
    if "w" not in given and "index" in given:
        raise ConfigError("index is the number of a w in its file; leave it out, or give w")
    unused = [name for name in ("psi", "class", "label") if name in given]
    if "w" in given and unused:
        raise ConfigError(f"{unused[0]} has no effect on a w; leave it out")


def _number(given: Mapping[str, object], name: str, most: float) -> float | None:
    return number_of(name, given[name], most) if name in given else None


def _path(value: object) -> str:
    if not isinstance(value, str) or not value:
        refuse("w", "the path of a file of w, .npz or .npy", value)
    return value


def _class(value: object) -> int | str:
    if isinstance(value, str):
        return value
    return whole_number("class", value, 0, _MOST_CLASS, " or a name")


def _label(value: object) -> Vector:
    return parse_label(value) if isinstance(value, str) else label_of(value)


def _edits(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        refuse("edits", "an object such as {'pca0': 1.5}", value)
    return {
        str(name): number_of(f"the edit {cut(str(name))}", strength, MAX_STRENGTH)
        for name, strength in value.items()
    }


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; give {_WHAT}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} has more than {_MOST_BYTES >> 20} MiB; it is not {_WHAT}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text, at byte {error.start}; save it as such"
        ) from None


def _objects(text: str, path: Path) -> object:
    try:
        with naming(str(path)):
            return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {cut(str(error), 200)}") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ConfigError(f"'{cut(twice)}' is there twice in one object")
    return found


def _rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The rows of a CSV file by their number, 1 for the header; empty rows are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in map(_stripped, reader):
            where = f"row {reader.line_num}"
            with naming(f"{path}, {where}"):
                if not header:
                    header = _header(cells)
                elif any(cells):
                    yield where, _row(header, cells)
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.line_num}: not CSV: {cut(str(error), 200)}") from None


def _stripped(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _header(cells: list[str]) -> list[str]:
    if not any(cells):
        raise ConfigError("must be the header, names of columns such as seed,psi")
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if any(mark in name for name in cells):
            raise ConfigError(f"columns must be separated by commas, not by {word}")
    plain = {name: None for name in cells if not name.startswith(_EDIT)}
    _check_names(plain, _COLUMNS)
    if twice := [name for name in cells if cells.count(name) > 1]:
        raise ConfigError(f"the column '{cut(twice[0])}' is there twice")
    return cells


def _row(header: list[str], cells: list[str]) -> dict[str, object]:
    if len(cells) != len(header):
        names = cut(listed(header, 9), 200)
        raise ConfigError(f"has {len(cells)} cells, the header has {len(header)}: {names}")
    given = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    row: dict[str, object] = {
        # The text of a path or a label is not a number, whatever it looks like.
        name: cell if name in ("w", "label") else _value(cell)
        for name, cell in given.items()
        if not name.startswith(_EDIT)
    }
    edits = {n.removeprefix(_EDIT): _value(c) for n, c in given.items() if n.startswith(_EDIT)}
    return row | ({"edits": edits} if edits else {})


def _value(cell: str) -> int | float | str:
    """A cell as the number it is, or as text."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
