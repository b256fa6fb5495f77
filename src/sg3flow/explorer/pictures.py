"""What a page asks to draw: JSON as checked values. Every problem is one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sg3flow.errors import ConfigError, cut, nearest
from sg3flow.rendering.call_arguments import (
    label_of,
    options_of,
    refuse,
    seed_of,
    whole_number,
)
from sg3flow.rendering.call_conditions import num_classes
from sg3flow.rendering.conditions import Condition
from sg3flow.rendering.images import Model
from sg3flow.rendering.mixing import parse_layers
from sg3flow.rendering.seeds import RenderOptions

MAX_STRENGTH = 1000.0
_MAX_EDITS = 64
_MOST_CLASS = 10**9  # of a network without classes, which says that it has none
_KEYS = (
    *("seed", "w", "psi", "class", "label", "translate_x", "translate_y", "rotate"),
    *("noise_mode", "mix", "directions", "edits"),
)
_MIX_KEYS = ("seed", "layers")


@dataclass(frozen=True)
class Mix:
    """Styles of another seed in some layers, such as ``4-7,9``."""

    seed: int
    layers: str


@dataclass(frozen=True)
class Picture:
    """One picture of the network.

    Args:
        seed: where its w comes from, unless ``w`` is given.
        w: name of a stored w, of a projection say; empty: that of the seed.
        condition: class or label of a conditional network, for the seeds.
        options: truncation psi (of seeds), translation, rotation and noise.
        mix: styles of another seed.
        directions: which set of directions the edits are of; see ``direction_sets``.
        edits: strengths of directions, by their names.
    """

    seed: int = 0
    w: str = ""
    condition: Condition = None
    options: RenderOptions = field(default_factory=RenderOptions)
    mix: Mix | None = None
    directions: str = ""
    edits: tuple[tuple[str, float], ...] = ()

    @property
    def needs_w(self) -> bool:
        """Whether ``render images`` needs a file of its w to draw it."""
        return bool(self.w) or self.mix is not None


def read_picture(content: object, model: Model) -> Picture:
    """A picture from the JSON of a page.

    Raises:
        ConfigError: an unknown key, a value out of range, or one that the network cannot use.
    """
    given = object_of("a picture", content, _KEYS)
    w, mix = _text("w", given.get("w", "")), given.get("mix")
    unused = ["seed"] if w else []
    unused += ["psi", "class", "label"] if w and mix is None else []
    for name in unused:
        if given.get(name) is not None:
            raise ConfigError(f"{name} has no effect on a stored w; leave it out")
    shift = given.get("translate_x", 0.0), given.get("translate_y", 0.0)
    noise = given.get("noise_mode", "const")
    options = options_of(_or(given.get("psi"), 1.0), shift, given.get("rotate", 0.0), noise)
    return Picture(
        seed=0 if w else seed_of(_or(given.get("seed"), 0)),
        w=w,
        condition=None if w and mix is None else _condition(given, model),
        options=options,
        mix=None if mix is None else _mix(mix, model.G.num_ws),
        directions=_text("directions", given.get("directions", "")),
        edits=_edits(given.get("edits", {})),
    )


def object_of(name: str, content: object, keys: tuple[str, ...]) -> Mapping[str, Any]:
    """A JSON object with no other keys than these."""
    if not isinstance(content, Mapping):
        refuse(name, "an object such as {'seed': 1}", content)
    for key in content:
        if key not in keys:
            hint = nearest(str(key), keys)
            raise ConfigError(f"{name} has no '{cut(str(key))}'{hint}; known: {', '.join(keys)}")
    return content


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        refuse(name, "a text", value)
    return value


def _condition(given: Mapping[str, Any], model: Model) -> Condition:
    class_index, label = given.get("class"), given.get("label")
    if class_index is not None and label is not None:
        raise ConfigError("give class or label, not both")
    condition: Condition = None
    if label is not None:
        condition = label_of(label)
    elif class_index is not None:
        count = num_classes(model.labels)
        condition = whole_number("class", class_index, 0, count - 1 if count else _MOST_CLASS)
    model.labels.check(condition)
    return condition


def _mix(content: object, num_ws: int) -> Mix:
    given = object_of("mix", content, _MIX_KEYS)
    layers = _text("mix: layers", given.get("layers", "all"))
    parse_layers(layers, num_ws)
    return Mix(seed_of(given.get("seed")), layers)


def _edits(content: object) -> tuple[tuple[str, float], ...]:
    if not isinstance(content, Mapping) or len(content) > _MAX_EDITS:
        refuse("edits", f"an object of at most {_MAX_EDITS} names and strengths", content)
    numbers = [(str(name), _strength(str(name), value)) for name, value in content.items()]
    return tuple((name, strength) for name, strength in numbers if strength)


def _strength(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= MAX_STRENGTH:  # type: ignore[arg-type]
        refuse(f"edit '{cut(name)}'", f"a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}", value)
    return float(value)  # type: ignore[arg-type]


def _or(value: Any, default: float) -> Any:
    return default if value is None else value
