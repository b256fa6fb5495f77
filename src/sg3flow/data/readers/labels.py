"""Read labels, class names and license from ``dataset.json``, and labels from CSV files.

These files may come from other tools, such as the public StyleGAN ones, so everything is checked.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sg3flow.data.readers.storage import Storage, plain_name
from sg3flow.errors import DataError

LABELS_NAME = "dataset.json"
# More are not classes but ids or times, and a one-hot label of that length fits no memory.
MAX_CLASSES = 100_000
_GREATEST = float(np.finfo(np.float32).max)
_MAX_DIGITS = 400  # of a number in a JSON file; no float is longer
_KEYS = ("labels", "class_names", "licence", "citation")


@dataclass(frozen=True)
class LabelsFile:
    """The labels and metadata from a ``dataset.json`` or another file.

    ``labels`` are unchecked values by image name; None: there are none.
    """

    path: Path
    labels: dict[str, Any] | None = None
    class_names: list[str] | None = None
    license: str | None = None
    citation: str | None = None

    def array(self, names: list[str]) -> np.ndarray | None:
        """Labels in the order of ``names``: int64 [N] for classes, float32 [N, dim] for vectors.

        Raises:
            DataError: an image has no label, labels are of different kinds, there are fewer class
                names than classes, or two classes share a name.
        """
        if self.labels is None or not names:
            return None
        missing = [name for name in names if name not in self.labels]
        if missing:
            raise DataError(
                f"{missing[0]} has no label in {self.path} ({len(missing)} have none); complete "
                f"{self.path.name}, or pack with --labels none"
            )
        ordered = [self.labels[name] for name in names]
        if all(map(is_class, ordered)):
            labels = np.array(ordered, np.int64)
        elif all(is_vector(each) and len(each) == len(ordered[0]) for each in ordered):
            labels = np.array(ordered, np.float32)
        else:
            raise DataError(self._odd_label(names, ordered))
        self._check_class_names(labels)
        return labels

    def label_dim(self, labels: np.ndarray | None) -> int:
        """Length of a label vector; 0: no labels. A class with a name may have no images."""
        if labels is None:
            return 0
        if labels.ndim == 2:
            return int(labels.shape[1])
        return len(self.class_names) if self.class_names else int(labels.max() + 1)

    def _check_class_names(self, labels: np.ndarray) -> None:
        if self.class_names is None:
            return
        check_distinct(self.class_names, self.path)
        named = len(self.class_names)
        needed = labels.shape[1] if labels.ndim == 2 else labels.max() + 1
        if named < needed or (labels.ndim == 2 and named != needed):
            raise DataError(f"{self.path} names {named} classes, but its labels have {needed}")

    def _odd_label(self, names: list[str], ordered: list[Any]) -> str:
        first = ordered[0]
        if is_class(first):
            odd = [not is_class(label) for label in ordered].index(True)
        elif is_vector(first):
            odd = [not is_vector(each) or len(each) != len(first) for each in ordered].index(True)
        else:
            odd = 0
        return (
            f"labels of {self.path} must be all class numbers from 0 to {MAX_CLASSES - 1}, or all "
            f"vectors of one length; {names[odd]} has {_shortened(ordered[odd])}; repair "
            f"{self.path.name}, or pack with --labels none"
        )


def read_labels(storage: Storage) -> LabelsFile:
    """Read the ``dataset.json`` of a folder or zip file; without one, all fields are None.

    Raises:
        DataError: the file is damaged, or a value in it has the wrong type.
    """
    if LABELS_NAME not in storage.names:
        return LabelsFile(storage.path)
    try:
        content = json.loads(
            storage.read(LABELS_NAME), parse_int=_short_number, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{LABELS_NAME} in {storage.path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{LABELS_NAME} in {storage.path} must hold an object with 'labels', not "
            f"{_shortened(content)}"
        )
    labels = _labels_by_name(content.get("labels"), storage.path)
    names = content.get("class_names")
    if names is not None and not _is_list_of_names(names):
        raise DataError(
            f"class_names of {storage.path} must be a list of names, not {_shortened(names)}"
        )
    terms = {key: content.get(key) for key in ("licence", "citation")}
    for key, text in terms.items():
        if text is not None and not _is_text(text):
            raise DataError(f"{key} of {storage.path} must be a text, not {_shortened(text)}")
    check_distinct(names or [], storage.path / LABELS_NAME)
    if names and labels is None:
        raise DataError(f"{storage.path} names {len(names)} classes, but has no labels")
    return LabelsFile(
        storage.path / LABELS_NAME, labels, names or None, terms["licence"], terms["citation"]
    )


def is_class(label: Any) -> bool:
    """Whether a label is a class number."""
    return type(label) is int and 0 <= label < MAX_CLASSES


def is_vector(label: Any) -> bool:
    """Whether a label is a list of numbers, finite in float32."""
    return (
        isinstance(label, list)
        and len(label) > 0
        and all(type(value) in (int, float) and abs(value) <= _GREATEST for value in label)
    )


def _labels_by_name(labels: Any, path: Path) -> dict[str, Any] | None:
    if not labels:
        return None
    if not isinstance(labels, list):
        raise DataError(
            f"labels of {path} must be a list of [file name, label], not {_shortened(labels)}"
        )
    for item in labels:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise DataError(
                f"labels of {path} must be a list of [file name, label]; it contains "
                f"{_shortened(item)}"
            )
    numbers: dict[str, int] = {}
    for number, (name, _) in enumerate(labels):
        name = plain_name(name.replace("\\", "/"))
        earlier = numbers.setdefault(name, number)
        if earlier != number:
            raise DataError(
                f"{LABELS_NAME} in {path} gives {name[:80]} two labels (labels[{earlier}] and "
                f"labels[{number}]); keep one"
            )
    return {name: labels[number][1] for name, number in numbers.items()}


def _short_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; the keys that are read may occur once."""
    for key in _KEYS:
        if sum(name == key for name, _ in pairs) > 1:
            raise ValueError(f"it has the key '{key}' twice")
    return dict(pairs)


def check_distinct(class_names: list[str], path: Path) -> None:
    """Check that no two classes share a name.

    Raises:
        DataError: two of the names from the file ``path`` are equal.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(class_names):
        earlier = numbers.setdefault(name, number)
        if earlier != number:
            raise DataError(
                f"{path} names two classes '{name[:60]}' (numbers {earlier} and {number}); give "
                "each class its own name"
            )


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_CLASSES and all(map(_is_text, value))


def _is_text(value: Any) -> bool:
    """Whether a value of JSON is a text that can be written; half a surrogate pair cannot."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _shortened(value: Any) -> str:
    """A value as JSON, shortened for a message."""
    text = ""
    try:
        for piece in json.JSONEncoder(default=str).iterencode(value):
            text += piece[:61]
            if len(text) > 60:
                return f"{text[:57]}..."
    except ValueError:  # Python does not print numbers of thousands of digits
        text += "a number of thousands of digits"
    return text


def csv_labels(storage: Storage, where: str, names: list[str]) -> LabelsFile:
    """Read labels by image path from a CSV file.

    The first row names the columns: ``path``, then either one column of classes (whole numbers, or
    names, which become classes in alphabetical order) or several that form a vector.

    Args:
        where: path of the file in the source, or an absolute path.
        names: the images of the source.

    Raises:
        DataError: the file is missing or malformed, names no image of the source, or has names and
            numbers in one column of classes.
    """
    path = Path(where) if Path(where).is_absolute() else storage.path / where
    rows = _numbered_rows(path, _text(storage, where, path))
    head = [field.strip() for field in rows[0][1]] if rows else []
    if len(head) < 2 or head[0].lower() != "path":
        raise DataError(f"the first row of {path} must name the columns, path first: path,label")
    _check_columns(path, head)
    values: dict[str, _CsvRow] = {}
    for number, row in rows[1:]:
        if len(row) != len(head):
            raise DataError(
                f"line {number} of {path} has {len(row)} fields, its first line {len(head)}"
            )
        name = plain_name(row[0].strip().replace("\\", "/"))
        if name in values:
            raise DataError(
                f"line {number} of {path} repeats {name[:80]} of line {values[name].line}"
            )
        values[name] = _CsvRow(number, [field.strip() for field in row[1:]])
    if not values.keys() & frozenset(names):
        raise DataError(
            f"{path} names no image of {storage.path}; its paths look like "
            f"'{next(iter(values), '')[:80]}', those of the images like '{names[0][:80]}'"
        )
    if len(head) > 2:
        vectors = {name: _vector(path, name, row.fields) for name, row in values.items()}
        return LabelsFile(path, vectors)
    return _classes(path, values)


@dataclass(frozen=True, slots=True)
class _CsvRow:
    """The number of a line, and its fields without the path."""

    line: int
    fields: list[str]


def _check_columns(path: Path, head: list[str]) -> None:
    for number, name in enumerate(head):
        if name and name in head[:number]:
            raise DataError(
                f"the first row of {path} names the column {name[:60]} twice (columns "
                f"{head.index(name) + 1} and {number + 1}); rename one"
            )


def _numbered_rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The non-empty rows, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text))
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {path} is not valid CSV ({error})") from None


def _text(storage: Storage, where: str, path: Path) -> str:
    try:
        content = storage.read(where) if where in storage.names else path.read_bytes()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the labels file {str(path)[:200]} cannot be read: {reason}") from None


def _vector(path: Path, name: str, fields: list[str]) -> list[float]:
    if not all(map(_NUMBER.fullmatch, fields)):
        raise DataError(f"the label of {name} in {path} is not a vector of numbers")
    return [float(field) for field in fields]


_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _classes(path: Path, rows: Mapping[str, _CsvRow]) -> LabelsFile:
    fields = {name: row.fields[0] for name, row in rows.items()}
    return text_classes(path, fields, lambda name: f"line {rows[name].line}")


def text_classes(
    path: Path, fields: Mapping[str, str | None], place: Callable[[str], str]
) -> LabelsFile:
    """Class numbers, or names, but not both; -1, 0.5, "" and a missing text are no classes.

    Args:
        place: names where the label of an image is, for messages.

    Raises:
        DataError: there are names and numbers.
    """
    texts = {name: field for name, field in fields.items() if field}
    number = next((name for name, field in texts.items() if _NUMBER.fullmatch(field)), None)
    if number is None:
        return _named_classes(path, fields)
    text = next((name for name, field in texts.items() if not _NUMBER.fullmatch(field)), None)
    if text is not None:
        raise DataError(
            f"{place(text)} of {path} has the class name '{texts[text][:60]}', but {place(number)} "
            f"the number {texts[number][:60]}; give only names or only numbers"
        )
    return LabelsFile(path, {name: field and _number(field) for name, field in fields.items()})


def _number(field: str) -> Any:
    """The number in a field of digits; the field itself if it is none, or far too large."""
    if _WHOLE_NUMBER.fullmatch(field):
        return int(field)
    return float(field) if "." in field or "e" in field.lower() else field


def _named_classes(path: Path, texts: Mapping[str, Any]) -> LabelsFile:
    """Number class names in alphabetical order; an empty or missing name stays as it is."""
    names = sorted({text for text in texts.values() if text})
    numbers = {text: number for number, text in enumerate(names)}
    labels = {image: numbers.get(text, text) for image, text in texts.items()}
    return LabelsFile(path, labels, names)
