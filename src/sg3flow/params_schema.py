"""A JSON schema of params files, from which editors complete, explain and check the settings.

It is made of the dataclasses in ``config.py``, and accepts what ``load_settings`` accepts. JSON
Schema cannot express three of the loader's rules: a whole number must not be written as ``4.0``, a
number must not be NaN, and a text must be encodable as UTF-8.
"""

import dataclasses
import itertools
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sg3flow.config import SWITCH
from sg3flow.files import write_text
from sg3flow.output_checks import check_replaceable
from sg3flow.params_file import PAIR_NAME, SECTIONS

NAME = "params.schema.json"
# A params file names its schema in this line. Editors look beside the file, so that the line is the
# same in params.yaml and in recipes/, where a file of the same name refers to the schema.
MODELINE = f"# yaml-language-server: $schema={NAME}\n"

_MARK = "made by sg3flow schema"
_TEXT = {"type": "string", "pattern": "^[^\\u0000]*$"}
_END = "(?![\\s\\S])"  # `$` also matches before a last line end in some engines
_MOST_DIGITS = 9


def write_schema(project: Path) -> list[Path]:
    """Write the schema into a project, and a reference to it into ``recipes/`` if it has one.

    Raises:
        DataError: a file of that name is not a schema of sg3flow.
    """
    texts = {project / NAME: schema_text()}
    if (project / "recipes").is_dir():
        texts[project / "recipes" / NAME] = _text({"$comment": _MARK, "$ref": f"../{NAME}"})
    for path in texts:
        check_replaceable(path, _is_ours, "a schema")
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _is_ours(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("$comment") == _MARK


def schema_text() -> str:
    """The schema as JSON, as it stands in the file."""
    return _text(params_schema())


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def params_schema() -> dict[str, Any]:
    """The schema of a params file that has every section; sections of others are left alone."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": _MARK,
        "title": "Settings of sg3flow",
        "description": "One section per stage.",
        "type": "object",
        "properties": {name: _section(name, config) for name, config in SECTIONS.items()},
        "required": list(SECTIONS),
    }


def _section(section: str, config_type: type[Any]) -> dict[str, Any]:
    """The schema of one section: its settings in all accepted spellings, and no others."""
    kinds = typing.get_type_hints(config_type)
    fields = dataclasses.fields(config_type)
    schema = {
        "description": (config_type.__doc__ or "").split("\n")[0],
        "type": "object",
        "properties": {field.name: _setting(field, kinds[field.name]) for field in fields},
        # With hyphens, or under a former name: valid, but not what an editor offers.
        "patternProperties": {
            f"^({'|'.join(others)})$": {"$ref": f"#/properties/{section}/properties/{field.name}"}
            for field in fields
            if (others := _spellings(field)[1:])
        },
        "additionalProperties": False,
        "dependencies": dict(each for field in fields for each in _exclusions(_spellings(field))),
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
    }
    return {key: value for key, value in schema.items() if value not in ({}, [])}


def _spellings(field: "dataclasses.Field[Any]") -> list[str]:
    """The names under which a params file may have a setting, its own first."""
    found = []
    for name in filter(None, (field.name, field.metadata["former"])):
        parts = name.split("_")
        for marks in itertools.product("_-", repeat=len(parts) - 1):
            found.append("".join(map("".join, zip(parts, (*marks, ""), strict=True))))
    return found


def _exclusions(names: list[str]) -> Iterator[tuple[str, Any]]:
    """By name: that the names after it are absent, since a file has a setting only once."""
    for index, name in enumerate(names[:-1], 1):
        yield name, {"propertyNames": {"not": {"enum": names[index:]}}}


def _setting(field: "dataclasses.Field[Any]", kind: Any) -> dict[str, Any]:
    about = {"description": field.metadata["help"]}
    if field.default is not dataclasses.MISSING:
        default = field.default
        about["default"] = list(default) if isinstance(default, tuple) else default
    return about | _value(field.metadata, kind)


def _value(metadata: Any, kind: Any) -> dict[str, Any]:
    """The values that ``check_value`` accepts for a field of the type ``kind``."""
    if metadata["choices"] == SWITCH:
        return {"enum": [*SWITCH, True, False]}
    if metadata["choices"] is not None:
        return {"enum": list(metadata["choices"])}
    if kind is bool:
        return {"type": "boolean"}
    if kind is str:
        return _TEXT | ({"type": ["string", "number"]} if metadata["numbers"] else {})
    if metadata["pairs"] is not None:
        pattern = f"^{PAIR_NAME}=({'|'.join(metadata['pairs'])}){_END}"
        names = {"pattern": f"^{PAIR_NAME}{_END}"}
        words = {"enum": list(metadata["pairs"])}
        mapping = {"type": "object", "propertyNames": names, "additionalProperties": words}
        return {
            "anyOf": [mapping, {"type": "array", "items": {"type": "string", "pattern": pattern}}]
        }
    if kind == tuple[str, ...]:
        item = _TEXT | ({"type": ["string", "number"]} if metadata["numbers"] else {})
        return {"anyOf": [{"type": "array", "items": item}, item]}
    bounds = {"minimum": metadata["ge"], "maximum": metadata["le"]}
    number = {"type": {int: "integer", float: "number"}[kind]} | bounds
    if metadata["words"]:
        text = {"type": "string", "pattern": _whole_numbers(metadata["ge"], metadata["le"])}
        return {"anyOf": [number, {"enum": list(metadata["words"])}, text]}
    return number


def _whole_numbers(low: int, high: int) -> str:
    """A pattern of the texts of at most 9 digits that are whole numbers from 0 to ``high``."""
    assert low == 0 and 0 < high < 10**_MOST_DIGITS
    digits = str(high)
    # Fewer digits; or the same ones up to a smaller digit, then any; or the number itself.
    parts = [f"[0-9]{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    for index, digit in enumerate(digits):
        if digit != "0":
            rest = len(digits) - index - 1
            parts.append(f"{digits[:index]}[0-{int(digit) - 1}][0-9]{{{rest}}}")
    numbers = "|".join([*parts, digits])
    return f"^(-0{{1,{_MOST_DIGITS}}}|(?=[0-9]{{1,{_MOST_DIGITS}}}{_END})0*({numbers})){_END}"
