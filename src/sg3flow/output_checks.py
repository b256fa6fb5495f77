"""Whether an output path may be written: only files and folders made by sg3flow are replaced.

Commands call ``check_replaceable`` before any work. A recognizer decides from the content of an
existing file or folder whether sg3flow made it: the ones here look for a mark (a JSON format, a
PNG text, an HTML generator, the first bytes of a file, a marker file in a folder). What needs the
knowledge of one package stays in that package as a function that is passed in.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sg3flow.errors import DataError

Recognizer = Callable[[Path], bool]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HTML_HEAD_BYTES = 4096  # our pages have the generator before the style, at the top


def check_replaceable(
    path: Path, is_ours: Recognizer, what: str, option: str | None = None
) -> None:
    """Check that ``path`` does not exist, or that sg3flow made what exists there.

    Args:
        is_ours: recognizes an output of this kind; called only if ``path`` exists. An OSError
            from it means no.
        what: the kind of output with its article, such as "a metrics report".
        option: the option that chooses the path; None: there is none.

    Raises:
        DataError: ``path`` holds something else; nothing is changed.
    """
    if not path.exists():
        return
    with suppress(OSError):
        if is_ours(path):
            return
    kind = "folder" if path.is_dir() else "file"
    choice = f"choose another {option}, or move it away" if option else "move it away"
    raise DataError(
        f"the {kind} {path} is not {what} made by sg3flow and is not replaced; {choice}"
    )


def check_distinct(outputs: Mapping[str, Path]) -> None:
    """Check that no two outputs, by the options that name them, are the same file.

    Raises:
        DataError: the second would replace the first.
    """
    options: dict[Path, str] = {}
    for option, path in outputs.items():
        other = options.setdefault(path.resolve(), option)
        if other != option:
            raise DataError(f"{other} and {option} are both {path}; pass different paths")


def output_folder(given: str, option: str) -> Path:
    """The folder that ``option`` names; it is not created.

    Raises:
        DataError: the option is empty, or a file is in the way.
    """
    if not given:  # `Path` would turn it into the current folder
        raise DataError(f"{option} is empty; pass a folder, or . for the current one")
    path = Path(given)
    found = next((place for place in (path, *path.parents) if place.exists()), path)
    if found.exists() and not found.is_dir():
        raise DataError(f"{option} {path}: {found} is not a folder; choose another {option}")
    return path


def json_marked(form: str) -> Recognizer:
    """Recognize a JSON object whose ``format`` is ``form``."""

    def is_ours(path: Path) -> bool:
        if not path.is_file():
            return False
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and content.get("format") == form

    return is_ours


def png_marked(software: str) -> Recognizer:
    """Recognize a PNG whose ``Software`` text is ``software``.

    Only the chunks before the pixels are read: a large sheet is not decoded, and no limit on the
    size of pictures applies.
    """
    text = b"Software\0" + software.encode("latin-1")

    def is_ours(path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(_PNG_SIGNATURE)) == _PNG_SIGNATURE and _has_text(stream, text)

    return is_ours


def html_marked(generator: str) -> Recognizer:
    """Recognize a page with the meta tag ``generator`` at its top."""
    tag = f'<meta name="generator" content="{generator}">'.encode()
    return lambda path: tag in _first_bytes(path, _HTML_HEAD_BYTES)


def begins_with(mark: bytes) -> Recognizer:
    """Recognize a file by its first bytes."""
    return lambda path: _first_bytes(path, len(mark)) == mark


def folder_marked(name: str, form: str) -> Recognizer:
    """Recognize a folder with a JSON file ``name`` of the format ``form``, or an empty folder."""
    is_marker = json_marked(form)
    return lambda path: path.is_dir() and (not any(path.iterdir()) or is_marker(path / name))


def _has_text(stream: BinaryIO, text: bytes) -> bool:
    """Whether a tEXt chunk before the pixels is ``text``; the stream is after the signature."""
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            return False
        start = stream.tell()
        if kind == b"tEXt" and length == len(text) and stream.read(length) == text:
            return True
        stream.seek(start + length + 4, os.SEEK_SET)  # 4: the checksum
    return False


def _first_bytes(path: Path, count: int) -> bytes:
    if not path.is_file():
        return b""
    with path.open("rb") as stream:
        return stream.read(count)
