"""YAML as text: read within limits, and one value set in it while all other text stays as it is.

A YAML file of a few lines can nest deeper than the parser's stack, or grow to gigabytes through
aliases, so its events are counted before anything is built from them.
"""

import re
from collections.abc import Iterator
from typing import Any

from sg3flow.errors import ConfigError, cut

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 100_000  # including what aliases repeat
MAX_DIGITS = 100

_INTEGER = re.compile("[-+]?(0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9_]+)")
_PLACE = re.compile(r'\s*in "<unicode string>",')


def load_yaml(text: str, where: str) -> Any:
    """The content of YAML 1.2, as DVC reads it: ``1e-8`` is a number and ``on`` a text.

    Args:
        where: what the text is, for messages.

    Raises:
        ConfigError: it is not valid, or exceeds a limit of this module, or ruamel.yaml is missing.
    """
    try:
        from ruamel.yaml import YAML
    except ImportError:
        raise ConfigError(f"reading {where} needs a package: pip install ruamel.yaml") from None
    try:
        problem = _beyond_limits(text)
        content = None if problem else YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # besides YAMLError, odd tags and dates raise ValueError and others
        reason = _PLACE.sub(
            ",", " ".join(str(error).partition("To suppress this check")[0].split())
        )
        raise ConfigError(f"{where} is not valid YAML: {cut(reason, 300)}") from None
    if problem:
        raise ConfigError(f"{where}{problem}")
    return content


def _beyond_limits(text: str) -> str:
    """The limit that a text exceeds, as the end of a sentence; empty: none."""
    if len(text) > MAX_CHARACTERS:
        return f" has {len(text)} characters; at most {MAX_CHARACTERS} are read"
    return next(_excesses(text), "")


def _excesses(text: str) -> Iterator[str]:
    """What exceeds a limit, found while the parser reads; it needs no stack for nested values."""
    from ruamel.yaml import YAML
    from ruamel.yaml import events as kinds

    sizes: dict[str, int] = {}  # number of values below each anchor
    opened: list[tuple[str, int]] = [("", 0)]  # anchor and size of each collection around
    for event in YAML(typ="safe", pure=True).parse(text):
        at = f", line {event.start_mark.line + 1}:"
        anchor, size = getattr(event, "anchor", None) or "", 0
        if isinstance(event, kinds.CollectionStartEvent):
            opened.append((anchor, 1))
            if len(opened) > MAX_DEPTH + 1:
                yield f"{at} more than {MAX_DEPTH} values inside one another"
            continue
        if isinstance(event, kinds.AliasEvent):
            size = sizes.get(anchor, 0)
            if anchor in (name for name, _ in opened):
                yield f"{at} *{cut(anchor)} is inside the value that it repeats"
        elif isinstance(event, kinds.ScalarEvent):
            sizes[anchor] = size = 1
            if _is_long_integer(event):
                yield f"{at} an integer of {len(event.value)} digits; at most {MAX_DIGITS} are read"
        elif isinstance(event, kinds.CollectionEndEvent):
            anchor, size = opened.pop()
            sizes[anchor] = size
        opened[-1] = (opened[-1][0], opened[-1][1] + size)
        if opened[-1][1] > MAX_VALUES:
            yield f"{at} more than {MAX_VALUES} values; aliases count for what they repeat"


def _is_long_integer(event: Any) -> bool:
    is_plain = event.implicit[0]
    return (
        is_plain and len(event.value) > MAX_DIGITS and _INTEGER.fullmatch(event.value) is not None
    )


def with_value(text: str, section: str, name: str, value: str) -> str | None:
    """The text with ``section.name`` set to ``value``; nothing else in it changes.

    A new name becomes the last of its section, a new section the last of the file.

    Args:
        value: in YAML, on one line.

    Returns:
        None if the place cannot be found; otherwise the caller checks that the new text means what
        it should: the place may be wrong behind aliases, anchors and texts of several lines.
    """
    from ruamel.yaml import YAML, MappingNode

    root = YAML(typ="safe", pure=True).compose(text)
    found = _entry(root, section)
    if found is None:
        return None if root.flow_style else _appended(text, f"{section}:", f"  {name}: {value}")
    key, node = found
    if _is_empty(node):
        return _inserted(text, _colon(text, key), f"  {name}: {value}")
    if not isinstance(node, MappingNode) or _is_elsewhere(key, node):
        return None
    known = _entry(node, name)
    if known is not None:
        return _replaced(text, *known, value)
    return (_into_braces if node.flow_style else _below)(text, node, name, value)


def line_end(text: str) -> str:
    """The end of the lines of a text: that of its first line."""
    first, newline, _ = text.partition("\n")
    return "\r\n" if newline and first.endswith("\r") else "\n"


def _entry(node: Any, name: str) -> tuple[Any, Any] | None:
    return next(((key, value) for key, value in node.value if key.value == name), None)


def _is_elsewhere(key: Any, node: Any) -> bool:
    """Whether an alias stands here: its value is that of the place it refers to."""
    return bool(node.start_mark.index < key.end_mark.index)


def _is_empty(node: Any) -> bool:
    """Whether nothing is written behind a name; the marks of such a value stand elsewhere."""
    return bool(node.value == "" and node.start_mark.index == node.end_mark.index)


def _colon(text: str, key: Any) -> int:
    return text.index(":", key.end_mark.index) + 1


def _replaced(text: str, key: Any, node: Any, value: str) -> str | None:
    colon, start, end = _colon(text, key), node.start_mark.index, _end(node)
    if _is_empty(node):
        start = end = colon
    if end is None or start < colon:
        return None
    comment = text[colon:start].rstrip()
    return f"{text[:colon]} {value}{comment}{text[end:]}"


def _end(node: Any) -> int | None:
    """Where the text of a node ends; None: not known.

    The mark of a block stands behind the comments that follow it, so its last value is asked.
    """
    if isinstance(node.value, str):
        return None if node.style in ("|", ">") else int(node.end_mark.index)
    if node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    if not isinstance(last, tuple):
        return _end(last)
    key, value = last
    is_here = not _is_empty(value) and not _is_elsewhere(key, value)
    return _end(value) if is_here else int(key.end_mark.index)


def _into_braces(text: str, node: Any, name: str, value: str) -> str:
    brace = node.end_mark.index - 1
    place = len(text[:brace].rstrip())
    if node.value and text[node.value[0][0].start_mark.index] == '"':  # JSON stays JSON
        name = f'"{name}"'
    comma = ", " if node.value else ""
    if text[:place].endswith(","):
        comma = " "
    return f"{text[:place]}{comma}{name}: {value}{text[place:]}"


def _below(text: str, node: Any, name: str, value: str) -> str | None:
    """The text with a new line behind the last one of a section."""
    end = _end(node)
    if end is None:
        return None
    indent = " " * node.value[0][0].start_mark.column
    return _inserted(text, end, f"{indent}{name}: {value}")


def _inserted(text: str, place: int, line: str) -> str:
    """The text with a new line behind the one that ``place`` is in."""
    newline = text.find("\n", place)
    end = len(text) if newline < 0 else newline - (text[newline - 1] == "\r")
    return text[:end] + line_end(text) + line + text[end:]


def _appended(text: str, *lines: str) -> str:
    newline = line_end(text)
    added = newline.join(lines)
    return text + (added + newline if text.endswith("\n") else newline + added)
