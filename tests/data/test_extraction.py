"""Archives unpacked directly: bombs, damage of any kind, and several processes."""

import io
import resource
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sg3flow.data.extraction import extract_tar, extract_zip
from sg3flow.data.readers.storage import Limits
from sg3flow.errors import DataError


def image(color: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, entries: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.addfile(directory("./"))
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"0.png": bytes(1_000_000), "1.png": image()})
    for limits, match in (
        (Limits(entries=1), "has 2 entries"),
        (Limits(total_bytes=100_000), "at most 100,000 are accepted"),
        (Limits(free_bytes=1000), "as a zip bomb"),
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=match):
            extract_zip(path, tmp_path / "out", limits)
        assert not list((tmp_path / "out").iterdir())


@settings(max_examples=150)
@given(st.data())
def test_no_damage_to_a_zip_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = make_zip(folder / "x.zip", {"a/1.png": image(), "b.txt": b"words " * 50})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    (folder / "in" / "out").mkdir(parents=True)
    try:
        extract_zip(path, folder / "in" / "out")
    except DataError as error:
        assert "\n" not in str(error)
    assert [p.name for p in (folder / "in").iterdir()] == ["out"]
    assert sorted(p.name for p in folder.iterdir()) == ["in", "x.zip"]


def test_tar_bombs_are_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar.gz", {"0.png": bytes(1_000_000), "1.png": image()})
    for limits, match in (
        (Limits(entries=1), "more than 1 entries"),
        (Limits(total_bytes=100_000), "more than 100,000 unpacked"),
        (Limits(free_bytes=1000), "as a decompression bomb"),
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=match):
            extract_tar(path, tmp_path / "out", limits)
        shutil.rmtree(tmp_path / "out")


@settings(max_examples=100)
@given(st.data())
def test_no_damage_to_a_tar_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    mode = data.draw(st.sampled_from(["w", "w:gz", "w:xz", "w:bz2"]))
    path = make_tar(folder / "x.tar", {"a/1.png": image(), "b.txt": b"words " * 50}, mode)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    (folder / "in" / "out").mkdir(parents=True)
    try:
        extract_tar(path, folder / "in" / "out")
    except DataError as error:
        assert "\n" not in str(error)
    assert sorted(p.name for p in folder.iterdir()) == ["in", "x.tar"]


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", {"0.png": bytes(100_000)})
    (tmp_path / "out").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            extract_tar(path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_zip_is_unpacked_the_same_by_any_number_of_processes(tmp_path: Path) -> None:
    entries = {f"{i % 3}/{i}.png": image(i) for i in range(60)}
    path = make_zip(tmp_path / "x.zip", entries)
    for workers in (1, 2):
        target = tmp_path / str(workers)
        target.mkdir()
        extract_zip(path, target, workers=workers)
        found = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*.png")}
        assert found == entries
    content = bytearray(path.read_bytes())
    content[content.index(b"2/59.png") + 20] ^= 0xFF
    path.write_bytes(content)
    (tmp_path / "3").mkdir()
    with pytest.raises(DataError, match="not a complete zip file"):
        extract_zip(path, tmp_path / "3", workers=2)


def refused(tmp_path: Path, path: Path, match: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=match) as caught:
        extract_zip(path, tmp_path / "out")
    assert "\n" not in str(caught.value)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    return content[:60] + bytes([content[60] ^ 0xFF]) + content[61:]


def test_a_declared_size_that_is_too_small_is_found_out(tmp_path: Path) -> None:
    content = bytearray(make_zip(tmp_path / "x.zip", {"1.png": bytes(5000)}).read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", 100)
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path, tmp_path / "x.zip", "Bad CRC-32")


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    content = bytearray(make_zip(tmp_path / "x.zip", {"1.png": bytes(5000)}).read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 20 : central + 24] = struct.pack("<I", 1_000_000)
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path, tmp_path / "x.zip", "overlap; refused as a zip bomb")


@pytest.mark.parametrize("damage", [_cut, _flip, lambda content: b"", lambda content: b"no zip"])
def test_a_damaged_zip_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    content = make_zip(tmp_path / "x.zip", {"1.png": image(), "2.png": image(9)}).read_bytes()
    (tmp_path / "x.zip").write_bytes(damage(content))
    refused(tmp_path, tmp_path / "x.zip", "not a complete zip file")
