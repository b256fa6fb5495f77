"""Checks of request bodies: length, content type, and unambiguous JSON of a known shape.

MLflow's own server answers a missing content type or deeply nested JSON with status 500, accepts
bodies of any length, and ignores unknown keys. ``model_app.py`` runs these checks first;
``request_schema.py`` then checks each value. The gateway checks what costs little: type, length and
number of rows.

The json module parses the text, because pydantic's parser silently accepts duplicate keys; pydantic
then checks the outer shape.
"""

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from email.message import Message
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.serving.request_schema import COLUMNS, PARAMS, Limits, check_names, shown

JSON_TYPE = "application/json"
FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_MAX_DEPTH = 8
_MAX_DIGITS = 400
_TOKENS_PER_ROW = 1000  # strings and brackets; a w with a list per layer has some 60
_MAX_NUMBERS = 1 << 16  # of one list; a w of 18 layers has 9,216
# An unterminated string also counts as one match; otherwise the search would restart at each quote
# and take quadratic time.
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_INDEX_RULE = "index must be a list with a name or number for each row"
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
    index: list[str | int | float] | None = None  # ignored: the answer is in the order of the rows


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
    if message.get_content_type() != JSON_TYPE:
        found = ascii(header)[:60] if header else "nothing"
        raise HTTPError(415, f"the content type must be application/json, not {found}")
    if any(name.lower() != "charset" for name, _ in message.get_params([])[1:]):
        raise HTTPError(
            415, f"the content type may have no parameter but charset: {ascii(header)[:60]}"
        )
    if str(charset).lower() not in ("utf-8", "utf8"):
        raise HTTPError(415, f"the charset must be utf-8, not {ascii(charset)[:40]}")


class ArrivingBodies:
    """Reads bodies; all that are incomplete together take little more than ``max_bytes``.

    If they would take more, the body that grows is refused, unless it is smaller than an equal
    share: small requests still pass while large ones stop halfway.

    Args:
        max_body_bytes: maximum length of one body.
        max_bytes: maximum memory for all incomplete ones; 0: 16 bodies of maximum length.
        advice: what to do about a body that is too long.
    """

    def __init__(
        self, max_body_bytes: int, max_bytes: int = 0, advice: str = "send fewer rows"
    ) -> None:
        self.advice = advice
        self.max_body_bytes, self.max_bytes = max_body_bytes, max_bytes or 16 * max_body_bytes
        self._count = self._used = 0

    async def read(
        self, chunks: AsyncIterator[bytes], declared: str | None, wait_sec: float
    ) -> bytes:
        """One whole body.

        Args:
            declared: value of the header Content-Length, if given.
            wait_sec: maximum time for it to arrive.

        Raises:
            HTTPError: too long (413), not complete in time (408), or no memory for it now (503).
        """
        too_long = f"the request is longer than {self.max_body_bytes >> 20} MiB; {self.advice}"
        if (
            declared is not None
            and declared.isdecimal()
            and int(declared[:20]) > (self.max_body_bytes)
        ):
            raise HTTPError(413, too_long)
        body = bytearray()
        self._count += 1
        try:
            async with asyncio.timeout(wait_sec):
                async for chunk in chunks:
                    body += chunk
                    self._used += len(chunk)
                    if len(body) > self.max_body_bytes:
                        raise HTTPError(413, too_long)
                    if self._is_short_of_memory(len(body)):
                        raise HTTPError(503, "too many long requests are arriving; try again")
        except TimeoutError:
            raise HTTPError(
                408, f"the body did not arrive within {wait_sec:g} s; send it again"
            ) from None
        finally:
            self._count -= 1
            self._used -= len(body)
        return bytes(body)

    def _is_short_of_memory(self, length: int) -> bool:
        return self._used > self.max_bytes and length > self.max_bytes // self._count


def check_rows(body: bytes, max_rows: int) -> None:
    """Refuse a request of more than ``max_rows`` rows without parsing it.

    Parsing a million rows takes seconds; here only the first ``max_rows`` are looked at. Bodies
    that are wrong in other ways pass: ``checked_body`` finds that.

    Raises:
        HTTPError: too many rows, or far more lists and objects than that many rows have (400).
    """
    with contextlib.suppress(UnicodeDecodeError):
        _scan(body.decode("utf-8"), max_rows)


def checked_body(body: bytes, max_rows: int = Limits().max_pictures) -> bytes:
    """The body for MLflow: one JSON object of a known form with known names.

    Other forms are converted to ``dataframe_records``: MLflow would convert them to arrays, in
    which true next to a number becomes 1.

    Raises:
        HTTPError: says what is wrong (400).
    """
    content = _parsed(body, max_rows)
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
        if "index" in place:
            return f"dataframe_split: {_INDEX_RULE}, not {shown(content[form]['index'])}"
        if isinstance(content[form], dict) and not {"columns", "data"}.isdisjoint(place):
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
        raise _bad(f"dataframe_split: {_INDEX_RULE}: {len(data)} here, not {len(table.index)}")
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


def _parsed(body: bytes, max_rows: int) -> Any:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"the request is not UTF-8: byte {error.start} does not fit") from None
    if "\0" in text:
        raise _bad("the request holds a null byte")
    if _scan(text, max_rows):
        raise _bad(f"the request is nested more than {_MAX_DEPTH} deep")
    try:
        return json.loads(
            text, parse_constant=_no_constant, parse_int=_number, object_pairs_hook=_once
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise _bad(f"the request is not valid JSON: {error.msg} at {place}") from None


def _scan(text: str, max_rows: int) -> bool:
    """Whether brackets outside strings nest too deep; checked before a parser recurses.

    Raises:
        HTTPError: more than ``max_rows`` rows, or more strings, brackets and numbers than they can
            have.
    """
    opened: list[str] = []  # the brackets around the present place
    commas = [0] * (_MAX_DEPTH + 1)  # by depth, of the list that is open there
    keys = ["", "", ""]  # the last string at depth 1 and 2
    end = 0
    for number, found in enumerate(_TOKENS.finditer(text)):
        token, depth = found[0], len(opened)
        count = text.count(",", end, found.start())
        commas[depth] += count * _holds_rows(opened, keys)
        if commas[depth] >= max_rows:
            raise _bad(
                f"at most {max_rows} images per request, and this one has more; send several "
                "requests"
            )
        if count > _MAX_NUMBERS or number > _TOKENS_PER_ROW * max(max_rows, 200):
            raise _bad("the request has more values than its images need; send fewer")
        end = found.end()
        if token in ("[", "{"):
            if depth == _MAX_DEPTH:
                return True
            opened.append(token)
            commas[depth + 1] = 0
        elif token in ("]", "}"):
            del opened[-1:]
        elif depth in (1, 2):
            keys[depth] = token
    return False


def _holds_rows(opened: list[str], keys: list[str]) -> bool:
    """Whether the innermost bracket is a list with an entry per row, in one of the ``FORMS``."""
    return (
        len(opened) in (2, 3)
        and opened[-1] == "["
        and keys[1] != '"params"'
        and (keys[1:] != ['"dataframe_split"', '"columns"'] or len(opened) == 2)
    )


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
