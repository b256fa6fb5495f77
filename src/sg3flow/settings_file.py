"""Changes settings in a params file; comments and order stay."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sg3flow.config import (
    EvaluateConfig,
    FetchConfig,
    PackConfig,
    RegisterConfig,
    RenderConfig,
    TrainConfig,
    ValidateConfig,
    load_settings,
    read_params,
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

# A list and a text may hold spaces: only before the next SECTION.NAME= does one end a value.
_BETWEEN = re.compile(r"\s+(?=[a-z]+\.[\w-]+=)")


def set_values(params: Path, assignments: Sequence[str]) -> str:
    """Set ``SECTION.NAME=VALUE`` in a params file; returns what was done, in words.

    Args:
        assignments: values are YAML, as in the file; several may stand in one text, with spaces
            between them.

    Raises:
        ConfigError: not that form, an unknown name, a wrong value; the file is then as it was.
    """
    from ruamel.yaml import YAML

    given = [each for text in assignments for each in _BETWEEN.split(text.strip()) if each]
    if not given:
        raise ConfigError("nothing to set; give SECTION.NAME=VALUE, say train.gamma=2")
    read_params(params)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100
    content = yaml.load(params.read_text(encoding="utf-8"))
    for assignment in given:
        section, name, value = _parsed(assignment)
        if not isinstance(content.get(section), dict):
            content[section] = {}
        spelt = next((k for k in content[section] if str(k).replace("-", "_") == name), name)
        content[section][spelt] = value
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
        raise ConfigError(f"'{assignment}' must be SECTION.NAME=VALUE, say train.gamma=2")
    if section not in SECTIONS:
        hint = nearest(section, SECTIONS)
        raise ConfigError(f"unknown section '{section}'{hint}; there are {', '.join(SECTIONS)}")
    try:
        value = YAML(typ="safe", pure=True).load(text) if text else ""
    except YAMLError:
        raise ConfigError(f"'{text}' is no value ({assignment}); put a text into quotes") from None
    return section, name.replace("-", "_"), value
