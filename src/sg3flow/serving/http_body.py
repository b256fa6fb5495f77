"""Checks of request bodies: length, content type, and unambiguous JSON of a known shape.

MLflow's own server answers a missing content type or deeply nested JSON with status 500, accepts
bodies of any length, and ignores unknown keys. ``model_app.py`` and the gateway run these checks
first; ``request_schema.py`` then checks each value.

The json module parses the text, because pydantic's parser silently accepts duplicate keys; pydantic
then checks the outer shape.
"""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from email.message import Message
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.serving.request_schema import COLUMNS, PARAMS, check_names

FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_MAX_DEPTH = 8
_MAX_DIGITS = 400
# An unterminated string also counts as one match; otherwise the search would restart at each quote
# and take quadratic time.
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_ADVICE = 'send {"dataframe_records": [{"seed": 1}]}'


class HTTPError(Sg3flowError):
    """A request that is refused before the model sees it; ``status`` is the HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class SplitTable(BaseModel):
    """Rows in the form ``dataframe_split``."""

    model_config = ConfigDict(strict=True, extra="forbid")

    columns: list[str]
    data: list[list[Any]]
    index: list[Any] | None = None


class Invocation(BaseModel):
    """A body: rows in one of MLflow's four forms, and parameters for all of them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    dataframe_records: list[dict[str, Any]] = []
    dataframe_split: SplitTable = SplitTable(columns=[], data=[])
    instances: list[dict[str, Any]] | dict[str, list[Any]] = []
    inputs: list[dict[str, Any]] | dict[str, list[Any]] = []
    params: dict[str, Any] | None = None


def check_content_type(header: str | None) -> None:
    """Accept only JSON in UTF-8: CSV has no types to check.

    Raises:
        HTTPError: another type, or none (415).
    """
    message = Message()
    message["content-type"] = header or "none/none"
    charset = (message.get_param("charset") or "utf-8") if header else "utf-8"
    if message.get_content_type() != "application/json":
        found = ascii(header)[:60] if header else "nothing"
        raise HTTPError(415, f"the content type must be application/json, not {found}")
    if any(name.lower() != "charset" for name, _ in message.get_params([])[1:]):
        raise HTTPError(
            415, f"the content type may have no parameter but charset: {ascii(header)[:60]}"
        )
    if str(charset).lower() not in ("utf-8", "utf8"):
        raise HTTPError(415, f"the charset must be utf-8, not {ascii(charset)[:40]}")


async def read_body(chunks: AsyncIterator[bytes], declared: str | None, limit: int) -> bytes:
    """The whole body if it has at most ``limit`` bytes; never buffers more than that.

    Args:
        declared: value of the header Content-Length, if given.

    Raises:
        HTTPError: too long (413).
    """
    too_long = f"the request is longer than {limit >> 20} MiB; send fewer rows"
    if declared is not None and declared.isdecimal() and int(declared[:20]) > limit:
        raise HTTPError(413, too_long)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise HTTPError(413, too_long)
    return bytes(body)


def checked_body(body: bytes) -> bytes:
    """The body for MLflow: one JSON object of a known form with known names.

    Other forms are converted to ``dataframe_records``: MLflow would convert them to arrays, in
    which true next to a number becomes 1.

    Raises:
        HTTPError: says what is wrong (400).
    """
    content = _parsed(body)
    if not isinstance(content, dict):
        raise _bad(f"the request must be a JSON object, not a {_kind(content)}; {_ADVICE}")
    _check_names("key", content, tuple(Invocation.model_fields))
    try:
        invocation = Invocation.model_validate(content)
    except ValidationError as error:
        raise _bad(_sentence(error.errors(include_url=False)[0]["loc"], content)) from None
    _check_names("param", invocation.params or {}, tuple(PARAMS))
    forms = [name for name in FORMS if name in content]
    if len(forms) != 1:
        found = " and ".join(forms) or "none"
        raise _bad(f"the request must hold one of {', '.join(FORMS)}, not {found}; {_ADVICE}")
    records = _records(forms[0], getattr(invocation, forms[0]))
    if not records:
        raise _bad(f"the request has no rows; {_ADVICE}")
    if forms[0] == "dataframe_records":
        return body
    return json.dumps({"dataframe_records": records, "params": invocation.params}).encode()


def _records(form: str, rows: Any) -> list[dict[str, Any]]:
    """Rows of any form as a list of objects."""
    if isinstance(rows, SplitTable):
        _check_split(rows)
        return [dict(zip(rows.columns, row, strict=True)) for row in rows.data]
    if isinstance(rows, dict):
        _check_columns(form, rows)
        return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    _check_records(form, rows)
    return list(rows)


def _sentence(place: tuple[int | str, ...], content: dict[str, Any]) -> str:
    """One sentence for an error of pydantic about the outer shape."""
    form = str(place[0])
    if form == "params":
        return f"params must be an object, not a {_kind(content['params'])}"
    if form == "dataframe_split":
        is_known = isinstance(content[form], dict) and not {"columns", "data"}.isdisjoint(place)
        if is_known or place[-1] == "index":
            return "dataframe_split must hold columns, a list of names, and data, a list of lists"
        return "dataframe_split must be an object of columns and data"
    if isinstance(content[form], dict) and form != "dataframe_records":
        return f"{form} as an object must hold lists of equal length, one per column"
    return f"{form} must be a list of rows, each an object; {_ADVICE}"


def _check_split(table: SplitTable) -> None:
    columns, data = table.columns, table.data
    if len(set(columns)) != len(columns) or any(len(row) != len(columns) for row in data):
        raise _bad("dataframe_split must hold a value for each column, each column once")
    if table.index is not None and len(table.index) != len(data):
        raise _bad("dataframe_split must have as many entries in index as rows in data")
    _check_names("column", columns, COLUMNS)


def _check_columns(form: str, columns: dict[str, list[Any]]) -> None:
    _check_names("column", columns, COLUMNS)
    if len({len(values) for values in columns.values()}) > 1:
        raise _bad(f"{form} as an object must hold lists of equal length, one per column")


def _check_records(form: str, rows: list[dict[str, Any]]) -> None:
    for i, row in enumerate(rows):
        if not row:
            raise _bad(f"row {i} is empty; {_ADVICE}")
        _check_names("column", row, COLUMNS)
        if form != "dataframe_records" and row.keys() != rows[0].keys():
            raise _bad(
                f"rows of {form} must have the same columns, but row {i} and row 0 differ; "
                "dataframe_records accepts different columns"
            )


def _check_names(kind: str, names: Iterable[str], known: Sequence[str]) -> None:
    try:
        check_names(kind, names, known)
    except ConfigError as error:
        raise _bad(str(error)) from None


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
        raise _bad(f"the request is not valid JSON: {error.msg} at {place}") from None


def _is_deep(text: str) -> bool:
    """Whether brackets outside strings nest too deep; checked before a parser recurses."""
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
    raise _bad(f"{name} is not a JSON number")


def _number(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _bad(f"a number of {len(digits)} digits is too long")
    return int(digits)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _bad(f"the key {ascii(twice)[:60]} occurs twice in one object")
    return content


def _kind(value: Any) -> str:
    kinds = {bool: "boolean", list: "list", str: "string", type(None): "null"}
    return kinds.get(type(value), "number")


def _bad(sentence: str) -> HTTPError:
    return HTTPError(400, sentence)
