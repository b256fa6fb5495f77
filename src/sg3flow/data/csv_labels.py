"""Labels from a CSV file: ``path,label``, or ``path`` and the numbers of a vector."""

import csv
import io
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.data.labels import LabelsFile
from sg3flow.data.storage import Storage
from sg3flow.errors import DataError


def csv_labels(storage: Storage, where: str, names: list[str]) -> LabelsFile:
    """Read labels by the paths of pictures.

    The first row names the columns: ``path`` first, then one column of classes (whole numbers, or
    names, which become classes in the order of the alphabet), or several that make up a vector.

    Args:
        where: name of the file in the source, or an absolute path outside of it.
        names: the pictures of the source.

    Raises:
        DataError: there is no such file, it is not of that form, or it names no picture.
    """
    path = Path(where) if Path(where).is_absolute() else storage.path / where
    rows = _numbered_rows(path, _text(storage, where, path))
    head = rows[0][1] if rows else []
    if len(head) < 2 or head[0].strip().lower() != "path":
        raise DataError(f"{path} must start with a row of column names, path first: path,label")
    known, values = frozenset(names), {}
    for number, row in rows[1:]:
        if len(row) != len(head):
            raise DataError(f"line {number} of {path} has {len(row)} fields, its first {len(head)}")
        name = PurePosixPath(row[0].strip().replace("\\", "/")).as_posix()
        if name in values:
            raise DataError(f"line {number} of {path} names {name} again")
        values[name] = [field.strip() for field in row[1:]]
    if not known & values.keys():
        raise DataError(
            f"{path} names no picture of {storage.path}: its paths look like "
            f"'{next(iter(values), '')}', the pictures' like '{names[0]}'"
        )
    if len(head) > 2:
        return LabelsFile(path, {name: _vector(path, name, row) for name, row in values.items()})
    return _classes(path, {name: row[0] for name, row in values.items()})


def _numbered_rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its (last) line."""
    reader = csv.reader(io.StringIO(text))
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} is no CSV ({error})") from None


def _text(storage: Storage, where: str, path: Path) -> str:
    try:
        content = storage.read(where) if where in storage.names else path.read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the labels in {path} cannot be read: {reason}") from None


def _vector(path: Path, name: str, fields: list[str]) -> list[float]:
    try:
        return [float(field) for field in fields]
    except ValueError:
        raise DataError(f"the label of {name} in {path} is no vector of numbers") from None


def _classes(path: Path, fields: dict[str, str]) -> LabelsFile:
    if all(field.isdecimal() and field.isascii() for field in fields.values()):
        return LabelsFile(path, {name: int(field) for name, field in fields.items()})
    texts = sorted(set(fields.values()))
    numbers = {text: number for number, text in enumerate(texts)}
    labels: dict[str, Any] = {name: numbers[field] for name, field in fields.items()}
    return LabelsFile(path, labels, texts)
