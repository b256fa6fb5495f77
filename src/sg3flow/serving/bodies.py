"""What may come over HTTP at all: length, content type, and JSON that says one thing only.

MLflow's own server answers a missing content type and deeply nested JSON by 500, takes bodies of
any length, leaves out keys it does not know, and sends tracebacks. ``pyfunc.py`` puts these checks
before it; what they let through is checked value by value in ``requests.py``.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from email.message import Message
from typing import Any

from sg3flow.errors import ConfigError
from sg3flow.serving.requests import COLUMNS, PARAMS, check_names

FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_KNOWN = (*FORMS, "params")
_MAX_DEPTH = 8
_MAX_DIGITS = 400
# A string that never ends is one find too: begun anew at each quote in it, it would take the square
# of its length.
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_ADVICE = 'send {"dataframe_records": [{"seed": 1}]}'


class Refused(ConfigError):
    """A request that is not even read; ``status`` is the HTTP status of the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def check_content_type(header: str | None) -> None:
    """Take JSON in UTF-8 only: CSV has no types to be strict about.

    Raises:
        Refused: another type, or none (415).
    """
    message = Message()
    message["content-type"] = header or "none/none"
    charset = (message.get_param("charset") or "utf-8") if header else "utf-8"
    if message.get_content_type() != "application/json":
        found = ascii(header)[:60] if header else "nothing"
        raise Refused(415, f"the content type must be application/json, not {found}")
    if str(charset).lower() not in ("utf-8", "utf8"):
        raise Refused(415, f"the charset must be utf-8, not {ascii(charset)[:40]}")


async def read_body(chunks: AsyncIterator[bytes], declared: str | None, limit: int) -> bytes:
    """The whole body, unless it is longer than ``limit`` bytes; never holds more than that.

    Args:
        declared: the header Content-Length, if there is one.

    Raises:
        Refused: too long (413).
    """
    too_long = f"the request is longer than {limit >> 20} MiB; send fewer rows"
    if declared is not None and declared.isdecimal() and int(declared[:20]) > limit:
        raise Refused(413, too_long)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise Refused(413, too_long)
    return bytes(body)


def check_body(body: bytes) -> None:
    """Refuse what is not one JSON object of a known form with known names.

    Raises:
        Refused: says what is wrong (400).
    """
    content = _parsed(body)
    if not isinstance(content, dict):
        raise _bad(f"the request must be a JSON object, not a {_kind(content)}; {_ADVICE}")
    try:
        check_names("key", content, _KNOWN)
        params = content.get("params")
        if params is not None and not isinstance(params, dict):
            raise _bad(f"params must be an object, not a {_kind(params)}")
        check_names("param", params or {}, tuple(PARAMS))
    except Refused:
        raise
    except ConfigError as error:
        raise _bad(str(error)) from None
    forms = [name for name in FORMS if name in content]
    if len(forms) != 1:
        found = " and ".join(forms) or "none"
        raise _bad(f"the request must hold one of {', '.join(FORMS)}, not {found}; {_ADVICE}")
    _check_rows(forms[0], content[forms[0]])


def _check_rows(form: str, rows: Any) -> None:
    """The outer shape of each form; MLflow's own words for what is wrong there are long ones."""
    if form == "dataframe_split":
        if not isinstance(rows, dict) or set(rows) - {"columns", "data", "index"}:
            raise _bad("dataframe_split must be an object of columns and data")
        columns: Any = rows.get("columns")
        data: Any = rows.get("data")
        if not _is_list_of(columns, str) or not _is_list_of(data, list):
            raise _bad(
                "dataframe_split must hold columns, a list of names, and data, a list of lists"
            )
        if len(set(columns)) != len(columns) or any(len(row) != len(columns) for row in data):
            raise _bad("dataframe_split must hold a value for each column, each column once")
        _check_columns(columns)
    elif isinstance(rows, dict) and form != "dataframe_records":
        _check_columns(rows)
        lengths = {len(value) for value in rows.values() if isinstance(value, list)}
        if not all(isinstance(value, list) for value in rows.values()) or len(lengths) > 1:
            raise _bad(f"{form} as an object must hold lists of one length, one a column")
    elif _is_list_of(rows, dict):
        for i, row in enumerate(rows):
            if not row:
                raise _bad(f"row {i} is empty; {_ADVICE}")
            _check_columns(row)
            if form != "dataframe_records" and row.keys() != rows[0].keys():
                raise _bad(
                    f"every row of {form} needs the same columns, which row {i} and row 0 do not "
                    "have; dataframe_records takes any"
                )
    else:
        raise _bad(f"{form} must be a list of rows, each an object; {_ADVICE}")
    if not rows or (form == "dataframe_split" and not rows["data"]):
        raise _bad(f"the request holds no rows; {_ADVICE}")


def _check_columns(names: Any) -> None:
    try:
        check_names("column", names, COLUMNS)
    except ConfigError as error:
        raise _bad(str(error)) from None


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _parsed(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"the request is not UTF-8: byte {error.start} does not fit") from None
    if "\0" in text:
        raise _bad("the request holds a null byte")
    if _is_deep(text):
        raise _bad(f"the request is nested more than {_MAX_DEPTH} deep")
    try:
        return json.loads(
            text, parse_constant=_no_constant, parse_int=_number, object_pairs_hook=_once
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _bad(f"the request is no valid JSON: {error.msg} at {place}") from None


def _is_deep(text: str) -> bool:
    """Whether brackets nest too deep, those in strings not counted; before a parser recurses."""
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            if depth > _MAX_DEPTH:
                return True
        elif found[0] in ("]", "}"):
            depth -= 1
    return False


def _no_constant(name: str) -> Any:
    raise _bad(f"{name} is no JSON number")


def _number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _bad(f"a number of {len(digits)} digits is too long")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _bad(f"the key {ascii(twice)[:60]} stands twice in one object")
    return content


def _kind(value: Any) -> str:
    kinds = {bool: "truth value", list: "list", str: "text", type(None): "null"}
    return kinds.get(type(value), "number")


def _bad(sentence: str) -> Refused:
    return Refused(400, sentence)
