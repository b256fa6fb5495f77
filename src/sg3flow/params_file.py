"""Read and check params files, and set values in them; comments and order are kept."""

import dataclasses
import datetime
import io
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sg3flow.config import (
    SWITCH,
    EvaluateConfig,
    FetchConfig,
    PackConfig,
    RegisterConfig,
    RenderConfig,
    T,
    TrainConfig,
    ValidateConfig,
)
from sg3flow.errors import ConfigError, cut, described, nearest
from sg3flow.files import write_text
from sg3flow.yaml_text import line_end, load_yaml, with_value

SECTIONS: dict[str, type[Any]] = {
    "fetch": FetchConfig,
    "pack": PackConfig,
    "validate": ValidateConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "render": RenderConfig,
    "register": RegisterConfig,
}

# Lists and texts may contain spaces, so a value ends only before the next SECTION.NAME=.
_BETWEEN = re.compile(r"\s+(?=[a-z]+\.[\w-]+=)")
PAIR_NAME = "[A-Za-z0-9_]{1,100}"  # of a setting with pairs
_MARK = "\ufeff"  # some editors write it at the start of a file


def set_values(params: Path, assignments: Sequence[str]) -> str:
    """Set ``SECTION.NAME=VALUE`` in a params file; returns one line that says what was set.

    Args:
        assignments: values are YAML, as in the file; one text may hold several assignments,
            separated by spaces.

    Raises:
        ConfigError: malformed, an unknown name or a wrong value; the file is unchanged.
    """
    given = [each for text in assignments for each in _BETWEEN.split(text.strip()) if each]
    if not given:
        raise ConfigError("nothing to set; give SECTION.NAME=VALUE, e.g. train.gamma=2")
    mark, text = _params_text(params)
    for assignment in given:
        text = _assigned(text, assignment, params)
    write_text(params, mark + text)
    return f"{params.name}: {', '.join(map(cut, given))}"


def _assigned(text: str, assignment: str, params: Path) -> str:
    """The text of a params file after one assignment, whose value has been checked."""
    section, name, written, value = _parsed(assignment)
    content = _mapping(text, params)
    values = content.get(section)
    values = dict(values) if isinstance(values, Mapping) else {}
    current = _current_names(SECTIONS[section])
    name = current.get(name, name)
    name = next((str(k) for k in values if current.get(_field_name(k)) == name), name)
    values[name] = value
    load_settings(SECTIONS[section], section, overrides=values)
    expected = {**content, section: values}
    for edit in (with_value, _rewritten):
        edited = edit(text, section, name, written)
        with suppress(ConfigError):
            if edited is not None and _mapping(edited, params) == expected:
                return edited
    raise ConfigError(
        f"{section}.{name} cannot be changed alone in {params}: an anchor or alias of YAML is near "
        "it; edit the file"
    )


def _rewritten(text: str, section: str, name: str, written: str) -> str:
    """As ``with_value``, for places that it cannot edit: the layout of other lines may change."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    content = yaml.load(text.replace("\r\n", "\n"))
    if not isinstance(content.get(section), dict):
        content[section] = {}
    content[section][name] = load_yaml(written, written)
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue().replace("\n", line_end(text))


def _parsed(assignment: str) -> tuple[str, str, str, Any]:
    """Section, name, and value of one assignment: the value as YAML on one line, and read."""
    target, equals, text = assignment.partition("=")
    section, dot, name = target.partition(".")
    if not equals or not dot:
        raise ConfigError(f"'{cut(assignment)}' must be SECTION.NAME=VALUE, e.g. train.gamma=2")
    if section not in SECTIONS:
        hint = nearest(section, SECTIONS)
        raise ConfigError(
            f"unknown section '{cut(section)}'{hint}; the sections are {', '.join(SECTIONS)}"
        )
    name = name.replace("-", "_")
    try:
        value = load_yaml(text, "the value") if text else ""
    except ConfigError as error:
        raise ConfigError(f"{error}: {cut(assignment)}; put a text in quotes") from None
    kinds = typing.get_type_hints(SECTIONS[section])
    if kinds.get(_current_names(SECTIONS[section]).get(name, "")) is str and _is_unquoted(value):
        value = text.strip()  # `desc=2026`: a value of a text setting is a text
        return section, name, json.dumps(value), value
    written = text.strip() if text.isprintable() else json.dumps(value, default=str)
    return section, name, written or '""', value


def _is_unquoted(value: Any) -> bool:
    """Whether YAML took a text without quotes for a number or a date."""
    return isinstance(value, int | float | datetime.date) and not isinstance(value, bool)


def load_settings(
    config_type: type[T],
    section: str,
    params_path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> T:
    """Load the settings of one stage: its section of a params file, then the overrides.

    Args:
        config_type: the stage's dataclass.
        section: name of the stage and of its section in the file.
        params_path: the params file; None: use the defaults of ``config_type``.
        overrides: values that take precedence over the file, e.g. from the command line.

    Raises:
        ConfigError: a missing or unknown name, a wrong type, a value out of range.
    """
    where = f"section '{section}' of {params_path}" if params_path else f"'{section}'"
    from_file = _read_section(params_path, section) if params_path is not None else {}
    values = _by_field(from_file, config_type, where)
    values |= _by_field(overrides or {}, config_type, where)
    fields = {f.name: f for f in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    normalized = {
        name: check_value(f"{section}.{name}", value, fields[name], config_type)
        for name, value in values.items()
    }
    for name, field in fields.items():
        if name not in normalized and field.default is dataclasses.MISSING:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"missing parameter '{name}' in {where}; set it there or give {option}"
            )
    return config_type(**normalized)


def _current_names(config_type: type[Any]) -> dict[str, str]:
    """Field names by every accepted name of a setting: its own and its former one."""
    names: dict[str, str] = {}
    for field in dataclasses.fields(config_type):
        names[field.name] = field.name
        if field.metadata.get("former"):
            names[field.metadata["former"]] = field.name
    return names


def _field_name(key: object) -> str:
    return (key if isinstance(key, str) else described(key)).replace("-", "_")


def _by_field(given: Mapping[str, Any], config_type: type[Any], where: str) -> dict[str, Any]:
    """The given values by field name.

    Raises:
        ConfigError: an unknown name, or one setting twice: in two spellings, or under both its
            present and its former name.
    """
    current = _current_names(config_type)
    values: dict[str, Any] = {}
    used: dict[str, str] = {}
    for key, value in given.items():
        name = _field_name(key)
        if name not in current:
            hint = nearest(name, current.values())
            raise ConfigError(f"unknown parameter {described(key)} in {where}{hint}")
        field = current[name]
        earlier = used.setdefault(field, str(key))
        if earlier != key and _field_name(earlier) == name:
            raise ConfigError(f"{where} sets both '{earlier}' and '{key}', one setting; keep one")
        if earlier != key:
            former = name if name != field else _field_name(earlier)
            raise ConfigError(
                f"{where} sets both '{field}' and '{former}', its former name; keep '{field}'"
            )
        values[field] = value
    return values


def check_value(
    label: str, value: Any, field: "dataclasses.Field[Any]", config_type: type[Any]
) -> Any:
    """Check a value against its field's type, range and choices; returns it in that type."""
    wanted = typing.get_type_hints(config_type)[field.name]
    if field.metadata.get("pairs"):
        return _pairs(label, value, field.metadata["pairs"])
    words, numbers = (field.metadata.get(key) for key in ("words", "numbers"))
    if isinstance(value, str) and words:
        if value in words:
            return words[value]
        value = _whole_number(label, value, words)
    if field.metadata.get("choices") == SWITCH and not isinstance(value, str):
        if not isinstance(value, bool):
            raise ConfigError(f"{label} must be true, false or auto, not {described(value)}")
        return "yes" if value else "no"
    if numbers:  # `seeds: 5`, `phema: [0.05, 0.1]`
        value = [*map(_as_text, value)] if isinstance(value, list) else _as_text(value)
    value = _typed(label, value, wanted)
    choices, ge, le = (field.metadata.get(key) for key in ("choices", "ge", "le"))
    if choices is not None and value not in choices:
        hint = nearest(value, choices)
        raise ConfigError(f"{label} must be one of {', '.join(choices)}, not '{cut(value)}'{hint}")
    if ge is not None and value < ge:
        raise ConfigError(f"{label} must be at least {ge}, not {described(value)}")
    if le is not None and value > le:
        raise ConfigError(f"{label} must be at most {le}, not {described(value)}")
    return value


def _pairs(label: str, value: Any, words: tuple[str, ...]) -> tuple[str, ...]:
    """A mapping of names to words, or a list of texts NAME=WORD; returns the list."""
    example = f"{{NAME: {words[0]}}}"
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        items = [item.partition("=")[::2] for item in value]
    else:
        raise ConfigError(f"{label} must be a mapping such as {example}, not {described(value)}")
    for name, word in items:
        if not (isinstance(name, str) and re.fullmatch(PAIR_NAME, name)):
            raise ConfigError(f"{label}: {described(name)} is no name of a metric, as in {example}")
        if word not in words:
            hint = nearest(word, words) if isinstance(word, str) else ""
            raise ConfigError(
                f"{label}: {name} must be one of {', '.join(words)}, not {described(word)}{hint}"
            )
    return tuple(f"{name}={word}" for name, word in items)


def _as_text(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return described(value) if is_number else value


def parse_pair(text: str, label: str) -> tuple[int, int]:
    """Parse two whole numbers joined by an x, like ``8x4``.

    Raises:
        ConfigError: malformed; the message calls the value ``label``.
    """
    match = re.fullmatch("([0-9]{1,9})[xX]([0-9]{1,9})", text.strip())
    if match is None:
        raise ConfigError(f"{label} must be two whole numbers like 3x2, not '{cut(text)}'")
    return int(match[1]), int(match[2])


def _whole_number(label: str, text: str, words: Mapping[str, int]) -> int:
    """Parse a number given as text, for a setting that also accepts words."""
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise ConfigError(f"{label} must be a whole number or {'|'.join(words)}, not '{cut(text)}'")
    return int(text)


def _typed(label: str, value: Any, wanted: Any) -> Any:
    if isinstance(wanted, types.GenericAlias):  # tuple[str, ...]: a list, or comma-separated text
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{label} must be a list, not {described(value)}")
        item_type = typing.get_args(wanted)[0]
        return tuple(_typed(f"{label}[{i}]", item, item_type) for i, item in enumerate(value))
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(label, value)
    # bool is a subclass of int: `gpus: true` must not pass as 1.
    if (isinstance(value, bool) and wanted is not bool) or not isinstance(value, wanted):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        quotes = "; put it in quotes" if wanted is str and _is_unquoted(value) else ""
        raise ConfigError(f"{label} must be {words[wanted]}, not {described(value)}{quotes}")
    if wanted is str:
        _check_text(label, value)
    return wanted(value)


def _finite(label: str, value: int | float) -> float:
    with suppress(OverflowError):  # an integer of more than 300 digits
        if math.isfinite(value):
            return float(value)
    raise ConfigError(f"{label} must be a finite number, not {described(value)}")


def _check_text(label: str, value: str) -> None:
    """Refuse a text that can be no path, or cannot be written to a file.

    Python reads a path of the command line that is not UTF-8 as a text with lone surrogates.
    """
    if "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise ConfigError(f"{label} must be text in UTF-8 without null characters: {cut(value)!a}")


def _read_section(path: Path, section: str) -> Mapping[str, Any]:
    content = read_params(path)
    if section not in content:
        hint = nearest(section, (key for key in content if isinstance(key, str)))
        raise ConfigError(f"{path} has no section '{section}'{hint}")
    if not isinstance(content[section], Mapping):
        raise ConfigError(f"section '{section}' of {path} must hold names and values")
    return typing.cast(Mapping[str, Any], content[section])


def read_params(path: Path) -> Mapping[str, Any]:
    """Read a params file as YAML 1.2, like DVC: ``1e-8`` is a number and ``on`` a text.

    Raises:
        ConfigError: the file is missing, is not YAML, exceeds a limit, or is not a mapping.
    """
    return _mapping(_params_text(path)[1], path)


def _params_text(path: Path) -> tuple[str, str]:
    """The byte order mark of a params file, if it has one, and its text with its line ends."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(
            f"no params file at {path}; go to a project, or make one: `sg3flow init DIR`"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    bare = text.removeprefix(_MARK)
    return text[: len(text) - len(bare)], bare


def _mapping(text: str, path: Path) -> Mapping[str, Any]:
    content = load_yaml(text, str(path))
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else described(content)
        raise ConfigError(f"{path} must hold one section per stage, not {found}")
    return content
