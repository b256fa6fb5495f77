"""Entries of zip and tar files: fetching and packing find the same images, or refuse both."""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import warnings
import zipfile
from functools import partial
from pathlib import Path

import pytest

from sg3flow.config import FetchConfig, PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.fetching import fetch_images
from sg3flow.data.manifest import read_manifest
from sg3flow.data.packing import PackSummary, pack_images
from sg3flow.data.readers import storage, tar_reader
from sg3flow.data.readers.storage import Limits, ZipStorage
from sg3flow.data.readers.tar_reader import TarStorage
from sg3flow.errors import DataError

KINDS = ["x.zip", "x.tar", "x.tar.gz"]


def write(path: Path, entries: list[tuple[str, bytes]]) -> Path:
    """An archive with these entries in this order, as its suffix says."""
    if path.suffix == ".zip":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore")  # of a name that occurs twice
            for name, content in entries:
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_link(path: Path, name: str, target: str, kind: bytes, first: bytes) -> Path:
    """A tar file with the file ``a.png`` and a link."""
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(first)
        archive.addfile(info, io.BytesIO(first))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path


def pack(source: Path, folder: Path, **config: object) -> PackSummary:
    folder.mkdir(exist_ok=True)
    paths = source, folder / "set.zip", folder / "manifest.parquet"
    return pack_images(*paths, PackConfig(**config), workers=1)


def fetch(source: Path, folder: Path) -> list[str]:
    fetch_images(folder / "raw", FetchConfig(dataset=str(source)))
    return sorted(p.relative_to(folder / "raw").as_posix() for p in folder.rglob("raw/**/*.png"))


def packed_paths(folder: Path) -> list[str]:
    rows = read_manifest(folder / "manifest.parquet")
    return sorted(rows["path"][rows["packed"]])


def refused_by_both(path: Path, folder: Path, words: str) -> None:
    for use in (fetch, pack):
        with pytest.raises(DataError, match=words) as caught:
            use(path, folder / use.__name__)
        assert "\n" not in str(caught.value)
        assert not (folder / "pack" / "set.zip").exists() and not (folder / "fetch/raw").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.png", "./a.png", "b//a.png", "b/./a.png", "é/猫.png"])
def test_fetch_and_pack_find_the_same_images(tmp_path, noise, png, kind, name):
    path = write(tmp_path / kind, [(name, png(noise(0))), ("c.png", png(noise(1)))])
    assert fetch(path, tmp_path / "fetch") == sorted([Path(name).as_posix(), "c.png"])
    pack(path, tmp_path / "pack")
    assert packed_paths(tmp_path / "pack") == fetch(path, tmp_path / "fetch")
    pack(tmp_path / "fetch" / "raw", tmp_path / "again")
    sets = [PackedSet(tmp_path / each / "set.zip").digest for each in ("pack", "again")]
    assert sets[0] == sets[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.png", "b.png", "a.png"], r"'a\.png' twice \(entries 1 and 3\)"),
        (["d/a.png", "./d//a.png"], r"'d/a\.png' twice \(entries 1 and 2\)"),
        (["notes.txt", "a.png", "notes.txt"], r"'notes\.txt' twice \(entries 1 and 3\)"),
        (["a.png", "a.png/b.png"], r"'a\.png' is both a file and a folder .*entry 1 is the file"),
        (["d/a.png/b.png", "./d/a.png"], r"'d/a\.png' is both .*entry 2 is the file"),
        (["a.png", "../b.png"], r"leads out of its folder: '\.\./b\.png'"),
        (["a.png", "/b.png"], r"leads out of its folder: '/b\.png'"),
        (["a.png", "d/../b.png"], r"leads out of its folder: 'd/\.\./b\.png'"),
    ],
)
def test_names_that_are_not_clear_are_refused_by_both(tmp_path, noise, png, kind, names, words):
    path = write(tmp_path / kind, [(name, png(noise(i))) for i, name in enumerate(names)])
    refused_by_both(path, tmp_path, words)


def test_labels_find_entries_with_a_dot(tmp_path, noise, png):
    labels = b'{"labels": [["./a.png", 1], ["d//b.png", 0]]}'
    entries = [("./a.png", png(noise(0))), ("./d/b.png", png(noise(1)))]
    path = write(tmp_path / "x.zip", [*entries, ("./dataset.json", labels)])
    assert pack(path, tmp_path / "pack").classes == {"0": 1, "1": 1}


@pytest.mark.parametrize("target", ["a.png", "./a.png"])
def test_a_hard_link_in_a_tar_file_is_a_file(tmp_path, noise, png, target):
    path = write_link(tmp_path / "x.tar", "b/c.png", target, tarfile.LNKTYPE, png(noise(0)))
    assert fetch(path, tmp_path / "fetch") == ["a.png", "b/c.png"]
    raw = tmp_path / "fetch" / "raw"
    assert (raw / "b/c.png").read_bytes() == (raw / "a.png").read_bytes() == png(noise(0))
    assert pack(path, tmp_path / "pack").num_packed == 2
    assert packed_paths(tmp_path / "pack") == ["a.png", "b/c.png"]


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the program tar")
@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz"])
def test_tar_of_a_folder_with_hard_links(tmp_path, noise, png, kind):
    """As DVC checks out equal images with ``cache.type hardlink``."""
    (tmp_path / "set" / "d").mkdir(parents=True)
    for name, seed in (("0.png", 0), ("d/1.png", 1)):
        (tmp_path / "set" / name).write_bytes(png(noise(seed)))
    for i in range(3):
        os.link(tmp_path / "set" / "0.png", tmp_path / "set" / "d" / f"same{i}.png")
    subprocess.run(["tar", "-caf", tmp_path / kind, "-C", tmp_path / "set", "."], check=True)
    expected = pack(tmp_path / "set", tmp_path / "folder")
    assert expected.num_packed == 5
    assert pack(tmp_path / kind, tmp_path / "pack").digest == expected.digest
    assert fetch(tmp_path / kind, tmp_path / "fetch") == packed_paths(tmp_path / "pack")


@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        (tarfile.SYMTYPE, "a.png", r"a symbolic link; create .* tar --dereference"),
        (tarfile.LNKTYPE, "none.png", r"a hard link to 'none\.png', which is not in the archive"),
        (tarfile.FIFOTYPE, "", "a special file"),
    ],
)
def test_entries_without_content_are_listed(tmp_path, noise, png, kind, target, words):
    path = write_link(tmp_path / "x.tar", "l.png", target, kind, png(noise(0)))
    refused_by_both(path, tmp_path, rf"l\.png.* {words}")
    summary = pack(path, tmp_path / "pack", max_rejects=1)
    assert (summary.num_packed, summary.num_source) == (1, 2)
    assert summary.left_out == {"unreadable": 1}
    rows = read_manifest(tmp_path / "pack" / "manifest.parquet").set_index("path")
    assert rows["problem"]["l.png"].startswith(words.split(";")[0].split(" to ")[0])
    hidden = write_link(tmp_path / "y.tar", ".l/x", "gone", kind, png(noise(0)))
    assert pack(hidden, tmp_path / "pack").num_source == 1


def test_links_in_a_zip_are_listed(tmp_path, noise, png):
    path = write(tmp_path / "x.zip", [("a.png", png(noise(0)))])
    link = zipfile.ZipInfo("l.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "a.png")
    refused_by_both(path, tmp_path, r"l\.png.*a link or special file|a link or .*l\.png")
    assert pack(path, tmp_path / "pack", max_rejects=1).left_out == {"unreadable": 1}
    with pytest.raises(DataError, match=r"l\.png: a link or special file"):
        PackedSet(path)


def test_pack_refuses_a_zip_bomb_as_fetch_does(tmp_path, noise, png, monkeypatch):
    """A harmless one: 40,000 zeros, against lowered limits."""
    path = write(tmp_path / "x.zip", [("a.png", png(noise(0))), ("b.png", bytes(40_000))])
    limits = Limits(free_bytes=1000, ratio=10)
    with pytest.raises(DataError, match=r"declares 40,\d{3} unpacked, more than 10 times .*bomb"):
        ZipStorage(path, limits)
    assert ZipStorage(path, Limits(free_bytes=41_000, ratio=0)).size("b.png") == 40_000
    monkeypatch.setattr(storage, "Limits", partial(Limits, free_bytes=1000, ratio=10))
    with pytest.raises(DataError, match="refused as a zip bomb"):
        pack(path, tmp_path / "pack")
    assert not (tmp_path / "pack" / "set.zip").exists()


@pytest.mark.parametrize("kind", ["x.tar.gz", "train-images-idx3-ubyte.gz"])
def test_pack_refuses_a_gzip_bomb_as_fetch_does(tmp_path, noise, png, monkeypatch, kind):
    entries = [("a.png", png(noise(0))), ("b.png", bytes(40_000))]
    path = write(tmp_path / "x.tar.gz", entries).rename(tmp_path / kind)
    if kind == "x.tar.gz":
        assert len(TarStorage(path, Limits(free_bytes=60_000, ratio=0)).names) == 2
    monkeypatch.setattr(tar_reader, "Limits", partial(Limits, free_bytes=1000, ratio=10))
    with pytest.raises(DataError, match=r"holds more than \d+,\d{3} unpacked; .* bomb"):
        pack(path, tmp_path / "pack")


def test_more_entries_than_fetch_takes_can_be_packed(tmp_path, noise, png, monkeypatch):
    """ImageNet has more than a million images, FFHQ more than 128 GiB."""
    path = write(tmp_path / "x.zip", [(f"{i}.png", png(noise(i))) for i in range(3)])
    monkeypatch.setattr(storage, "Limits", partial(Limits, entries=2, total_bytes=100))
    assert pack(path, tmp_path / "pack").num_packed == 3


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz"])
@pytest.mark.parametrize("kept", [None, 100])
def test_a_damaged_header_is_not_the_end_of_a_tar_file(tmp_path, noise, png, kind, kept):
    """tarfile stops there without a word, and the images after it would be missing."""
    plain = write(tmp_path / "plain.tar", [(f"{i}.png", png(noise(i))) for i in range(3)])
    with tarfile.open(plain) as archive:
        header = archive.getmember("1.png").offset
    content = plain.read_bytes()
    damaged = content[:header] + b"?" + content[header + 1 :]
    damaged = content[: header + kept] if kept else damaged
    (tmp_path / kind).write_bytes(gzip.compress(damaged) if kind.endswith("gz") else damaged)
    refused_by_both(
        tmp_path / kind, tmp_path, rf"is damaged \(.* header|checksum.* at byte {header:,}"
    )
