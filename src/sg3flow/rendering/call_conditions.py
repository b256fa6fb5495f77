"""The class or label that arguments of the Python API give, checked against a network."""

from collections.abc import Sequence

from sg3flow.config import MOST_IMAGES
from sg3flow.errors import ConfigError, cut, listed, nearest
from sg3flow.rendering.call_arguments import label_of, whole_number
from sg3flow.rendering.conditions import Condition, TrainingLabels
from sg3flow.rendering.images import Model

_MOST_NAMES = 10


def num_classes(labels: TrainingLabels) -> int:
    """Number of classes; 0: the network is unconditional, or its labels are no classes."""
    return 0 if labels.are_vectors else labels.dim


def condition_of(
    model: Model, class_: int | str | None, label: Sequence[float] | None
) -> Condition:
    """The condition that the arguments give, checked; None: neither is given.

    Raises:
        ConfigError: both are given, or the network was not trained with it.
    """
    if class_ is not None and label is not None:
        raise ConfigError("give class_ or label, not both")
    condition = label_of(label) if label is not None else _class(model, class_)
    if condition is not None:
        model.labels.check(condition)
    return condition


def one_condition(
    model: Model, class_: int | str | None, label: Sequence[float] | None
) -> Condition:
    """As ``condition_of``; a conditional network needs one."""
    condition, count = condition_of(model, class_, label), num_classes(model.labels)
    if condition is None and count:
        names = f" ({listed(model.class_names, _MOST_NAMES)})" if model.class_names else ""
        raise ConfigError(f"this network is conditional; give class_, from 0 to {count - 1}{names}")
    model.labels.check(condition)
    return condition


def labels_text(model: Model) -> str:
    """The labels of a network in a line about it."""
    if model.labels.are_vectors:
        return f"labels of {model.labels.dim} numbers"
    if not model.labels.dim:
        return "unconditional"
    names = listed(model.class_names, _MOST_NAMES)
    return f"{model.labels.dim} ({names})" if names else str(model.labels.dim)


def _class(model: Model, given: int | str | None) -> int | None:
    if given is None:
        return None
    if isinstance(given, str):
        names = list(model.class_names)
        if given not in names:
            known = listed(names, _MOST_NAMES) or "none, give its number"
            raise ConfigError(f"no class '{cut(given)}'{nearest(given, names)}; names: {known}")
        return names.index(given)
    count = num_classes(model.labels)
    return whole_number("class_", given, 0, count - 1 if count else MOST_IMAGES, " or a name")
