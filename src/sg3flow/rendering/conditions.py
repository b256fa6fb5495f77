"""The labels that conditional networks are rendered with: classes, or vectors of numbers.

A network is rendered with labels like those it was trained with: a class if they are classes, else
a vector. Snapshots record the kind, and some of the vectors, which sample images use in turn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sg3flow.data.packed_form import CLASSES, VECTORS, label_kind_of, label_vectors
from sg3flow.data.readers.labels import is_vector
from sg3flow.errors import CheckpointError, ConfigError, DataError, cut
from sg3flow.runs.run_folder import read_provenance

Vector = tuple[float, ...]
Condition = int | Vector | None  # a class, a label vector, or neither: for unconditional networks

_GREATEST = float(np.finfo(np.float32).max)
_SHOWN = 4


@dataclass(frozen=True)
class TrainingLabels:
    """What is known of the labels that a network was trained with.

    Attributes:
        dim: length of a label; 0: the network is unconditional.
        samples: labels of some training images; empty: the labels are classes, or of a kind that
            earlier versions and other tools did not record.
    """

    dim: int
    samples: tuple[Vector, ...] = ()

    @classmethod
    def read(cls, dim: int, training_set: Mapping[str, Any] | None) -> "TrainingLabels":
        """From the description of the training set in a snapshot or a package.

        Raises:
            CheckpointError: it does not fit the network.
        """
        described = training_set or {}
        if dim == 0 or described.get("label_kind") != VECTORS:
            return cls(dim)
        samples = described.get("sample_labels")
        if not isinstance(samples, list) or not samples:
            raise CheckpointError("the checkpoint has no sample_labels, and its labels are vectors")
        return cls(dim, tuple(_sample(label, dim) for label in samples))

    @property
    def are_vectors(self) -> bool:
        """Whether the labels are vectors and not classes."""
        return bool(self.samples)

    def in_turn(self, count: int) -> list[Condition]:
        """All classes in turn, or labels of training images."""
        if self.dim == 0:
            return [None] * count
        if self.samples:
            return [self.samples[i % len(self.samples)] for i in range(count)]
        return [i % self.dim for i in range(count)]

    def check(self, condition: Condition) -> None:
        """Refuse a condition that the network was not trained with.

        Raises:
            ConfigError: it is missing, of another kind or length, or there is no such class.
        """
        if self.dim == 0:
            if condition is not None:
                what = "class" if isinstance(condition, int) else "label"
                raise ConfigError(f"this network is unconditional; do not give a {what}")
        elif condition is None:
            raise ConfigError(f"this network is conditional; give {self._expected()}")
        elif isinstance(condition, int):
            if self.are_vectors:
                raise ConfigError(
                    f"this network was trained with labels that are vectors, not classes; give "
                    f"{self._expected()}"
                )
            if not 0 <= condition < self.dim:
                raise ConfigError(f"class must be from 0 to {self.dim - 1}, not {condition}")
        elif len(condition) != self.dim:
            raise ConfigError(f"a label must have {self.dim} numbers, not {len(condition)}")

    def _expected(self) -> str:
        if not self.are_vectors:
            return f"a class from 0 to {self.dim - 1}"
        return f"a label of {self.dim} numbers, such as {label_text(self.samples[0])}"


def label_tensor(condition: Condition, labels: TrainingLabels) -> torch.Tensor:
    """The label [1, dim] of a condition: one-hot for a class, empty if unconditional.

    Raises:
        ConfigError: as ``TrainingLabels.check``.
    """
    labels.check(condition)
    tensor = torch.zeros(1, labels.dim)
    if isinstance(condition, int):
        tensor[0, condition] = 1
    elif condition is not None:
        tensor[0] = torch.tensor(condition)
    return tensor


def parse_label(text: str) -> Vector:
    """Comma-separated numbers: ``0.5,-1``.

    Raises:
        ConfigError: not such a list, or a number that is not finite in float32.
    """
    try:
        label = tuple(float(part) for part in text.split(","))
    except ValueError:
        label = (math.nan,)
    return check_label(label, text)


def check_label(label: Vector, text: str = "") -> Vector:
    """The label, if it can be used.

    Args:
        text: the label as it was given; empty: as numbers.

    Raises:
        ConfigError: a number is not finite in float32.
    """
    if not all(abs(value) <= _GREATEST for value in label):
        shown = cut(text) if text else label_text(label)
        raise ConfigError(f"a label must be finite numbers like 0.5,-1, not '{shown}'")
    return label


def given_condition(class_index: int | None, label: str) -> Condition:
    """The condition that options give; None: neither.

    Raises:
        ConfigError: both are given, or the label is not a list of numbers.
    """
    if class_index is not None and label:
        raise ConfigError("give a class or a label, not both")
    return parse_label(label) if label else class_index


def condition_text(condition: Condition, class_names: Sequence[str] = ()) -> str:
    """The condition in a caption; empty: there is none."""
    if isinstance(condition, int):
        return class_names[condition] if condition < len(class_names) else f"class {condition}"
    return f"label {label_text(condition)}" if condition is not None else ""


def label_text(label: Vector) -> str:
    """A label as in options, shortened."""
    more = ",…" if len(label) > _SHOWN else ""
    return ",".join(f"{value:.3g}" for value in label[:_SHOWN]) + more


def described_labels(training_set: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """The description of a training set with the kind of its labels.

    Snapshots of earlier versions do not record it. For these it comes from the packed set that the
    run names, if that is still there with the same form.
    """
    dim = training_set.get("label_dim")
    if not dim or training_set.get("label_kind"):
        return training_set
    data = (read_provenance(run_dir) or {}).get("data")
    if not isinstance(data, dict) or data.get("digest") != training_set.get("digest"):
        return training_set
    try:
        path = Path(str(data.get("path")))
        kind, samples = label_kind_of(path), label_vectors(path)
    except DataError:  # it is elsewhere now
        return training_set
    if kind == CLASSES:
        return training_set | {"label_kind": CLASSES}
    if any(len(label) != dim for label in samples) or not samples:
        return training_set
    return training_set | {"label_kind": VECTORS, "sample_labels": samples}


def _sample(label: Any, dim: int) -> Vector:
    if not is_vector(label) or len(label) != dim:
        raise CheckpointError(f"sample_labels of the checkpoint must be lists of {dim} numbers")
    return tuple(map(float, label))
