"""What an output may replace: nothing that sg3flow did not make, whatever it contains."""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sg3flow.errors import DataError
from sg3flow.files import write_json
from sg3flow.output_checks import (
    begins_with,
    check_distinct,
    check_replaceable,
    folder_marked,
    html_marked,
    json_marked,
    png_marked,
)

FORM, SOFTWARE, GENERATOR, MARK = "sg3flow-some-1", "sg3flow", "sg3flow page", b"kimg,"
TAG = f'<meta name="generator" content="{GENERATOR}">'
FILES = {
    "json": json_marked(FORM),
    "png": png_marked(SOFTWARE),
    "html": html_marked(GENERATOR),
    "first bytes": begins_with(MARK),
}
FOLDER = folder_marked("made.json", FORM)

# A function's tmp_path is shared by its examples: each of them writes the whole file.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Pieces that a foreign file may contain by chance, among them each mark in a wrong place.
_PIECES = [
    FORM.encode(),
    b'{"format": "',
    b'"}',
    b"Software\0sg3flow",
    b"\x89PNG\r\n\x1a\n",
    struct.pack(">I4s", 16, b"tEXt"),
    struct.pack(">I4s", 0xFFFFFFFF, b"tEXt"),
    TAG[:-1].encode(),
    b"<html>",
    MARK[:-1],
    b"\n",
]
contents = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=20), max_size=8).map(b"".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just(FORM),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["format", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)
softwares = st.sampled_from(["sg3flow evaluate", "my sg3flow", "SG3FLOW", "GIMP"])


def png(texts: dict[str, str], side: int = 2) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "output"
    path.write_bytes(content)
    return path


def recognized(path: Path) -> set[str]:
    return {name for name, is_ours in FILES.items() if is_ours(path)}


@same_folder
@given(contents)
def test_bytes_are_recognized_only_with_the_whole_mark_in_its_place(tmp_path, content):
    try:
        parsed = json.loads(content.decode())
    except ValueError:
        parsed = None
    expected = set()
    if isinstance(parsed, dict) and parsed.get("format") == FORM:
        expected.add("json")
    if content.startswith(MARK):
        expected.add("first bytes")
    if TAG.encode() in content[:4096]:
        expected.add("html")
    # The PNG recognizer reads chunks: a mark that Pillow does not find does not count.
    found = recognized(write(tmp_path, content))
    assert found - {"png"} == expected
    if "png" in found:
        assert content.startswith(b"\x89PNG\r\n\x1a\n") and b"Software\0sg3flow" in content


@same_folder
@given(values)
@example({"x": {"format": FORM}})
@example([{"format": FORM}])
def test_json_counts_by_its_own_format_alone(tmp_path, value):
    path = write(tmp_path, json.dumps(value).encode())
    is_ours = isinstance(value, dict) and value.get("format") == FORM
    assert recognized(path) == ({"json"} if is_ours else set())


@same_folder
@given(st.dictionaries(st.sampled_from(["Software", "Comment", "Title"]), softwares), st.booleans())
def test_a_foreign_picture_is_never_ours_and_ours_always(tmp_path, texts, ours):
    others = texts | {"Comment": SOFTWARE}  # the right text under another key
    if ours:
        others["Software"] = SOFTWARE
    path = write(tmp_path, png(others))
    assert recognized(path) == ({"png"} if ours else set())


def test_a_mark_in_the_pixels_or_behind_them_is_not_a_mark(tmp_path):
    mark = b"Software\0sg3flow"
    header, rest = png({})[:33], png({})[33:]  # the signature and IHDR, then IDAT
    assert recognized(write(tmp_path, header + chunk(b"tEXt", mark) + rest)) == {"png"}
    hidden = chunk(b"IDAT", chunk(b"tEXt", mark))
    for content in (
        header + hidden + rest,
        header + rest + chunk(b"tEXt", mark),
        header + chunk(b"tEXt", mark + b"!") + rest,
        header + chunk(b"iCCP", chunk(b"tEXt", mark)) + rest,
        header + struct.pack(">I4s", len(mark), b"tEXt") + mark[:-1],
        b"x" + png({"Software": SOFTWARE}),
    ):
        assert recognized(write(tmp_path, content)) == set()


def test_a_sheet_beyond_the_limit_of_pillow_is_recognized(tmp_path, monkeypatch):
    content = png({"Software": SOFTWARE}, side=64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    assert recognized(write(tmp_path, content)) == {"png"}


@same_folder
@given(st.text(max_size=60).filter(lambda text: TAG not in text), st.integers(0, 5000))
def test_a_page_is_ours_by_the_tag_at_its_top(tmp_path, text, before):
    foreign = ("<html>" + text).encode()
    assert "html" not in recognized(write(tmp_path, foreign))
    page = b"<html>".ljust(before) + TAG.encode()
    assert ("html" in recognized(write(tmp_path, page))) == (len(page) <= 4096)


@same_folder
@given(values)
def test_a_folder_is_ours_by_its_marker_or_empty(tmp_path, value):
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "made.json").unlink(missing_ok=True)
    assert FOLDER(folder) and not recognized(folder)
    (folder / "made.json").write_text(json.dumps(value))
    assert FOLDER(folder) == (isinstance(value, dict) and value.get("format") == FORM)
    (folder / "made.json").rename(folder / ".hidden")
    assert not FOLDER(folder)
    (folder / ".hidden").unlink()


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": NaN}', "\ufeff{}", "\x00", ""])
def test_what_cannot_be_parsed_is_foreign(tmp_path, content):
    path = write(tmp_path, content.encode())
    assert recognized(path) == set()
    assert not FOLDER(path) and not FOLDER(tmp_path)


def test_what_is_no_regular_file_is_foreign_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull), tmp_path):
        assert recognized(path) == set()


def test_the_error_names_the_path_the_kind_and_the_option(tmp_path):
    path = write(tmp_path, b"mine")
    with pytest.raises(DataError) as error:
        check_replaceable(path, FILES["json"], "a metrics report", "--report")
    assert str(error.value) == (
        f"the file {path} is not a metrics report made by sg3flow and is not replaced; "
        "choose another --report, or move it away"
    )
    with pytest.raises(DataError, match=r"^the folder .* is not replaced; move it away$"):
        check_replaceable(tmp_path, FILES["json"], "a reproduction")
    assert path.read_bytes() == b"mine"


def test_ours_and_what_does_not_exist_may_be_written(tmp_path):
    check_replaceable(tmp_path / "new", lambda path: pytest.fail("asked"), "a report")
    write_json(tmp_path / "ours", {"format": FORM})
    check_replaceable(tmp_path / "ours", FILES["json"], "a report")


def test_a_file_that_cannot_be_read_is_not_replaced(tmp_path):
    def unreadable(path: Path) -> bool:
        raise PermissionError(path)

    with pytest.raises(DataError, match="is not replaced"):
        check_replaceable(write(tmp_path, b""), unreadable, "a report")


def test_two_outputs_must_be_two_files(tmp_path):
    check_distinct({"--a": tmp_path / "a", "--b": tmp_path / "b"})
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="--a and --b are both"):
        check_distinct({"--a": tmp_path / "a", "--b": tmp_path / "link"})
