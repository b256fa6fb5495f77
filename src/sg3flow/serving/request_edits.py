"""The field ``edits`` of a request: strengths of directions that were registered with the model."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from sg3flow.errors import ConfigError, listed, nearest
from sg3flow.rendering.edits import MAX_STRENGTH

MAX_EDITS = 64
RULE = f"a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
_MOST_NAMES = 10
_EXAMPLE = "an object of strengths such as {'pca0': 1.5}"


def edits_field(number: Any) -> Any:
    """Type and description of the field for pydantic.

    Args:
        number: the type of a strength.
    """
    return dict[str, number] | None, Field(None, description=_EXAMPLE)


def check_edits(where: str, edits: Any, names: Sequence[str]) -> None:
    """Refuse edits that the model does not have; before their values are checked.

    Args:
        where: the row, for messages.
        edits: as given; what is no object is left to the schema.
        names: of the directions of the model; empty: it has none.

    Raises:
        ConfigError: an unknown name, too many, or a model without directions.
    """
    if edits is None:
        return
    if not names:
        raise ConfigError(
            f"{where}: this model was registered without directions; leave edits out, or register "
            "it again with register.directions"
        )
    if not isinstance(edits, Mapping):
        return
    if len(edits) > MAX_EDITS:
        raise ConfigError(f"{where}: edits must be at most {MAX_EDITS}, not {len(edits)}")
    for name in edits:
        if name not in names:
            hint = nearest(str(name), names)
            known = listed(names, _MOST_NAMES)
            raise ConfigError(f"{where}: no direction {ascii(name)[:60]}{hint}; known: {known}")
