"""Read and check params files, and set values in them; comments and order are kept."""

import dataclasses
import io
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
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
from sg3flow.errors import ConfigError, nearest
from sg3flow.files import write_text

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


def set_values(params: Path, assignments: Sequence[str]) -> str:
    """Set ``SECTION.NAME=VALUE`` in a params file; returns one line that says what was set.

    Args:
        assignments: values are YAML, as in the file; one text may hold several assignments,
            separated by spaces.

    Raises:
        ConfigError: malformed, an unknown name or a wrong value; the file is unchanged.
    """
    from ruamel.yaml import YAML

    given = [each for text in assignments for each in _BETWEEN.split(text.strip()) if each]
    if not given:
        raise ConfigError("nothing to set; give SECTION.NAME=VALUE, e.g. train.gamma=2")
    read_params(params)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    content = yaml.load(params.read_text(encoding="utf-8"))
    for assignment in given:
        section, name, value = _parsed(assignment)
        if not isinstance(content.get(section), dict):
            content[section] = {}
        current = _current_names(SECTIONS[section])
        name = current.get(name, name)
        spelled = (k for k in content[section] if current.get(_field_name(k)) == name)
        content[section][next(spelled, name)] = value
        load_settings(SECTIONS[section], section, overrides=content[section])
    stream = io.StringIO()
    yaml.dump(content, stream)
    write_text(params, stream.getvalue())
    return f"{params.name}: {', '.join(given)}"


def _parsed(assignment: str) -> tuple[str, str, Any]:
    """Section, name and value of one assignment."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    target, equals, text = assignment.partition("=")
    section, dot, name = target.partition(".")
    if not equals or not dot:
        raise ConfigError(f"'{assignment}' must be SECTION.NAME=VALUE, e.g. train.gamma=2")
    if section not in SECTIONS:
        hint = nearest(section, SECTIONS)
        raise ConfigError(
            f"unknown section '{section}'{hint}; the sections are {', '.join(SECTIONS)}"
        )
    try:
        value = YAML(typ="safe", pure=True).load(text) if text else ""
    except YAMLError:
        raise ConfigError(
            f"'{text}' in {assignment} is not valid YAML; put a text in quotes"
        ) from None
    return section, name.replace("-", "_"), value


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
    return str(key).replace("-", "_")


def _by_field(given: Mapping[str, Any], config_type: type[Any], where: str) -> dict[str, Any]:
    """The given values by field name.

    Raises:
        ConfigError: an unknown name, or one setting under both its present and its former name.
    """
    current = _current_names(config_type)
    values: dict[str, Any] = {}
    used: dict[str, str] = {}
    for key, value in given.items():
        name = _field_name(key)
        if name not in current:
            hint = nearest(name, current.values())
            raise ConfigError(f"unknown parameter '{key}' in {where}{hint}")
        field = current[name]
        if used.setdefault(field, name) != name:
            former = name if name != field else used[field]
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
    words = field.metadata.get("words") or {}
    if isinstance(value, str) and words:
        if value in words:
            return words[value]
        value = _whole_number(label, value, words)
    if field.metadata.get("choices") == SWITCH and not isinstance(value, str):
        if not isinstance(value, bool):
            raise ConfigError(f"{label} must be true, false or auto, not {str(value)[:60]}")
        return "yes" if value else "no"
    value = _typed(label, value, wanted)
    choices, ge, le = (field.metadata.get(key) for key in ("choices", "ge", "le"))
    if choices is not None and value not in choices:
        hint = nearest(str(value), choices)
        raise ConfigError(f"{label} must be one of {', '.join(choices)}, not '{value}'{hint}")
    if ge is not None and value < ge:
        raise ConfigError(f"{label} must be at least {ge}, not {value}")
    if le is not None and value > le:
        raise ConfigError(f"{label} must be at most {le}, not {value}")
    return value


def parse_pair(text: str, label: str) -> tuple[int, int]:
    """Parse two whole numbers joined by an x, like ``8x4``.

    Raises:
        ConfigError: malformed; the message calls the value ``label``.
    """
    match = re.fullmatch("([0-9]{1,9})[xX]([0-9]{1,9})", text.strip())
    if match is None:
        raise ConfigError(f"{label} must be two whole numbers like 3x2, not '{text[:60]}'")
    return int(match[1]), int(match[2])


def _whole_number(label: str, text: str, words: Mapping[str, int]) -> int:
    """Parse a number given as text, for a setting that also accepts words."""
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise ConfigError(f"{label} must be a whole number or {'|'.join(words)}, not '{text[:60]}'")
    return int(text)


def _typed(label: str, value: Any, wanted: Any) -> Any:
    if isinstance(wanted, types.GenericAlias):  # tuple[str, ...]: a list, or comma-separated text
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{label} must be a list, not {value!r}")
        item_type = typing.get_args(wanted)[0]
        return tuple(_typed(f"{label}[{i}]", item, item_type) for i, item in enumerate(value))
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ConfigError(f"{label} must be a finite number, not {value}")
        return float(value)
    # bool is a subclass of int: `gpus: true` must not pass as 1.
    if (isinstance(value, bool) and wanted is not bool) or not isinstance(value, wanted):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise ConfigError(f"{label} must be {words[wanted]}, not {value!r}")
    return wanted(value)  # ruamel returns subclasses of int, float and str


def _read_section(path: Path, section: str) -> Mapping[str, Any]:
    content = read_params(path)
    if section not in content:
        hint = nearest(section, map(str, content))
        raise ConfigError(f"{path} has no section '{section}'{hint}")
    if not isinstance(content[section], Mapping):
        raise ConfigError(f"section '{section}' of {path} must hold names and values")
    return typing.cast(Mapping[str, Any], content[section])


def read_params(path: Path) -> Mapping[str, Any]:
    """Read a params file as YAML 1.2, like DVC: ``1e-8`` is a number and ``on`` a text.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no params file at {path}; copy one from recipes/") from None
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold one section per stage, not {type(content).__name__}")
    return content
