"""``dataset.json``: the labels of a set's pictures, the names of its classes, and its terms.

The file comes from anywhere (the public StyleGAN tools write it too): nothing in it is taken for
granted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sg3flow.data.packed_form import LABELS_NAME
from sg3flow.data.storage import Storage
from sg3flow.errors import DataError

# More are no classes but ids or times, and a one-hot label of that length fits nowhere.
MAX_CLASSES = 100_000
_GREATEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LabelsFile:
    """What a ``dataset.json`` or another file says of labels.

    ``labels`` are unchecked values by the names of pictures, None: none.
    """

    path: Path
    labels: dict[str, Any] | None = None
    class_names: list[str] | None = None
    licence: str | None = None
    citation: str | None = None

    def array(self, names: list[str]) -> np.ndarray | None:
        """Labels in the order of ``names``: int64 [N] for classes, float32 [N, dim] for vectors.

        Raises:
            DataError: a picture has no label, they are not of one kind, or there are not as many
                class names as classes.
        """
        if self.labels is None or not names:
            return None
        missing = [name for name in names if name not in self.labels]
        if missing:
            raise DataError(
                f"{missing[0]} in {self.path} has no label ({len(missing)} have none); complete "
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
        """Length of a label vector; 0: no labels. A class may have a name and no picture."""
        if labels is None:
            return 0
        if labels.ndim == 2:
            return int(labels.shape[1])
        return len(self.class_names) if self.class_names else int(labels.max() + 1)

    def _check_class_names(self, labels: np.ndarray) -> None:
        if self.class_names is None:
            return
        named = len(self.class_names)
        needed = labels.shape[1] if labels.ndim == 2 else labels.max() + 1
        if named < needed or (labels.ndim == 2 and named != needed):
            raise DataError(f"{self.path} names {named} classes but its labels have {needed}")

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
            f"vectors of one length; {names[odd]} has {_words(ordered[odd])}; repair "
            f"{self.path.name}, or pack with --labels none"
        )


def read_labels(storage: Storage) -> LabelsFile:
    """Read the ``dataset.json`` of a folder or zip file; all None if there is none.

    Raises:
        DataError: it is damaged, or one of its parts is of another type.
    """
    if LABELS_NAME not in storage.names:
        return LabelsFile(storage.path)
    try:
        content = json.loads(storage.read(LABELS_NAME))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{LABELS_NAME} in {storage.path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{LABELS_NAME} in {storage.path} must hold an object with 'labels', not "
            f"{_words(content)}"
        )
    labels = _labels_by_name(content.get("labels"), storage.path)
    names = content.get("class_names")
    if names is not None and not _is_list_of_names(names):
        raise DataError(
            f"class_names of {storage.path} must be a list of names, not {_words(names)}"
        )
    terms = {key: content.get(key) for key in ("licence", "citation")}
    for key, text in terms.items():
        if text is not None and not isinstance(text, str):
            raise DataError(f"{key} of {storage.path} must be a text, not {_words(text)}")
    if names and labels is None:
        raise DataError(f"{storage.path} names {len(names)} classes but has no labels")
    return LabelsFile(storage.path / LABELS_NAME, labels, names or None, **terms)


def is_class(label: Any) -> bool:
    """Whether a label is the number of a class."""
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
            f"labels of {path} must be a list of [file name, label], not {_words(labels)}"
        )
    for item in labels:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)):
            raise DataError(
                f"labels of {path} must be a list of [file name, label]; {_words(item)} is in it"
            )
    return {name.replace("\\", "/"): label for name, label in labels}


def _is_list_of_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_CLASSES
        and all(isinstance(name, str) for name in value)
    )


def _words(value: Any) -> str:
    """A value from JSON, short enough for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
