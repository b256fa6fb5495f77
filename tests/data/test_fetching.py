"""Fetching from any source: records, refusals, mirrors, archives.

The file is long because all cases share a server, a cache and the same archives.
"""

import hashlib
import io
import json
import os
import shutil
import stat
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from sg3flow.addresses import address_mark, shown_url
from sg3flow.cli.stage_commands import fetch_app
from sg3flow.config import FetchConfig
from sg3flow.data.extraction import extract_zip
from sg3flow.data.fetching import KNOWN_SETS, fetch_images
from sg3flow.data.raw_images import folder_digest, regular_files, source_metrics
from sg3flow.errors import ConfigError, DataError
from sg3flow.tracking.outbox import Outbox, StageRun
from sg3flow.transfers import RetryPolicy

QUICK = RetryPolicy(connect_sec=0.5, read_sec=0.5, tries=1, pause_sec=0.01)


def image(color: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (color, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def fetch(dest: Path, dataset: object, **settings: object) -> dict[str, object]:
    config = FetchConfig(dataset=str(dataset), **settings)  # type: ignore[arg-type]
    return fetch_images(dest, config, QUICK)


def refused(tmp_path: Path, path: Path, match: str) -> None:
    """The zip is refused in one line, and nothing is left at the target or beside it."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=match) as caught:
        fetch(tmp_path / "raw", path)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SG3FLOW_CACHE", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")


def test_starter_is_drawn_with_a_record_and_repeats_to_the_byte(tmp_path: Path) -> None:
    source = fetch(tmp_path / "raw", "starter", images=12, resolution=16)
    record = (tmp_path / "raw" / "SOURCE.json").read_bytes()
    assert json.loads(record) == source
    assert source["format"] == "sg3flow-source-1" and source["dataset"] == "starter"
    assert source["counts"] == {f"starter/train/{name}": 4 for name in ("cat", "dog", "wild")}
    fetch(tmp_path / "raw", "starter", images=12, resolution=16, sha256=source["sha256"])
    assert (tmp_path / "raw" / "SOURCE.json").read_bytes() == record
    with pytest.raises(DataError, match="as expected"):
        fetch(tmp_path / "raw", "starter", images=9, resolution=16, sha256=source["sha256"])
    assert (tmp_path / "raw" / "SOURCE.json").read_bytes() == record


def test_a_real_zip(tmp_path: Path, afhq_sample: Path) -> None:
    source = fetch(tmp_path / "raw", afhq_sample)
    assert source["origin"] == "afhq-sample.zip" and source["licence"] is None
    assert source["sha256"] == hashlib.sha256(afhq_sample.read_bytes()).hexdigest()
    assert sum(source["counts"].values()) == 43  # type: ignore[attr-defined]
    with zipfile.ZipFile(afhq_sample) as archive:
        for name in archive.namelist():
            if not name.endswith("/"):
                assert (tmp_path / "raw" / name).read_bytes() == archive.read(name)
    metrics = source_metrics(source)
    assert metrics["num_images"] == 43 and metrics["num_images/afhq/train/cat"] == 10


def test_the_same_zip_by_path_and_by_file_address(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "my set.zip", {"a/1.png": image(), "a/notes.txt": b"x"})
    first = fetch(tmp_path / "one", path)
    assert first == fetch(tmp_path / "two", path.as_uri()) and first["counts"] == {"a": 1}


def test_a_folder_is_copied_without_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "b" / ".git").mkdir(parents=True)
    (folder / "b" / "1.png").write_bytes(image())
    (folder / "2.jpg").write_bytes(image())
    (folder / "b" / ".DS_Store").write_bytes(b"litter")
    source = fetch(tmp_path / "raw", folder)
    assert source["counts"] == {".": 1, "b": 1} and source["origin"] == "pictures"
    assert regular_files(tmp_path / "raw") == ["2.jpg", "SOURCE.json", "b/1.png"]
    assert not (tmp_path / "raw" / "b" / ".DS_Store").exists()
    assert source["sha256"] == folder_digest(folder, ["2.jpg", "b/1.png"])[1]


def test_files_that_are_no_pictures_are_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("1.png", "1.mov", "2.xyz"):
        (folder / name).write_bytes(image())
    for source in (folder, make_zip(tmp_path / "x.zip", {n: image() for n in os.listdir(folder)})):
        record = fetch(tmp_path / "raw", source)
        assert record["counts"] == {".": 1}
        assert record["ignored"] == {
            "counts": {".mov": 1, ".xyz": 1},
            "files": ["1.mov", "2.xyz"],
        }
        assert json.loads((tmp_path / "raw" / "SOURCE.json").read_text()) == record
        assert source_metrics(record)["num_ignored"] == 2
    # The record itself is no ignored file of a copy.
    assert fetch(tmp_path / "copy", tmp_path / "raw")["ignored"] == record["ignored"]


def test_terms_travel_with_a_copy(tmp_path: Path) -> None:
    fetch(tmp_path / "raw", "starter", images=3, resolution=16)
    copied = fetch(tmp_path / "copy", tmp_path / "raw")
    assert copied["licence"] == "Apache-2.0"
    (tmp_path / "copy" / "SOURCE.json").write_text('{"format": "theirs"}')
    with pytest.raises(DataError, match="of another kind"):
        fetch(tmp_path / "again", tmp_path / "copy")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("make", ["link", "folder link", "pipe"])
def test_links_and_pipes_in_a_folder_are_refused(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "1.png").write_bytes(image())
    odd = folder / "odd.png"
    if make == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(tmp_path if make == "folder link" else folder / "1.png")
    with pytest.raises(DataError, match=r"odd\.png is a link or a special file"):
        fetch(tmp_path / "raw", folder)
    assert not (tmp_path / "raw").exists()


def test_source_and_target_must_not_contain_each_other(tmp_path: Path) -> None:
    fetch(tmp_path / "raw", "starter", images=3, resolution=16)
    inner = make_zip(tmp_path / "raw" / "x.zip", {"1.png": image()})
    for dest, source in (
        (tmp_path / "raw", tmp_path / "raw"),
        (tmp_path / "raw", tmp_path / "raw" / "starter"),
        (tmp_path / "raw" / "starter" / "new", tmp_path / "raw"),
        (tmp_path / "raw", inner),
    ):
        with pytest.raises(DataError, match=r"contain each other|move it out"):
            fetch(dest, source)
    assert inner.exists()


def test_a_foreign_target_is_refused_and_ours_replaced(tmp_path: Path) -> None:
    dest = tmp_path / "raw"
    dest.mkdir()
    fetch(dest, "starter", images=3, resolution=16)  # an empty folder is nobody's
    (dest / "extra.txt").write_text("x")
    fetch(dest, "starter", images=3, resolution=16)
    assert not (dest / "extra.txt").exists()
    (dest / "SOURCE.json").unlink()
    with pytest.raises(DataError, match="not a folder of fetched pictures"):
        fetch(dest, "starter", images=3, resolution=16)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="not a folder of fetched pictures"):
        fetch(tmp_path / "file", "starter", images=3, resolution=16)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("dataset", "match"),
    [
        ("afqh", "did you mean 'afhq'"),
        ("", "is neither a known data set"),
        ("no/such.zip", "no file or folder no/such.zip"),
        ("s3://bucket/x.zip", "give an https://"),
        ("file:///no/such.zip", "no file or folder"),
    ],
)
def test_an_unknown_dataset(tmp_path: Path, dataset: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        fetch(tmp_path / "raw", dataset)
    assert not (tmp_path / "raw").exists()


def test_no_images_is_an_error(tmp_path: Path) -> None:
    refused(tmp_path, make_zip(tmp_path / "x.zip", {"a.txt": b"x"}), "no images below x.zip")


@pytest.mark.usefixtures("no_network")
def test_dead_links_say_what_else_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "raw", "afhq")
    message = str(caught.value)
    known = KNOWN_SETS["afhq"]
    for part in (shown_url(known.url), str(known.sha256), "729,484,677", "--dataset", "mirror"):
        assert part in message
    assert not (tmp_path / "raw").exists()


@pytest.mark.usefixtures("no_network")
def test_a_known_set_is_held_to_its_digest_and_counts(tmp_path: Path, cache: Path) -> None:
    make_zip(cache / "afhq.zip", {"afhq/train/cat/1.png": image()})
    with pytest.raises(DataError, match="cannot download"):  # not the known digest: asked again
        fetch(tmp_path / "raw", "afhq")
    make_zip(cache / "afhq_v2.zip", {"train/cat/1.png": image()})
    with pytest.raises(DataError, match="not the whole set afhqv2"):
        fetch(tmp_path / "raw", "afhqv2")
    assert not (tmp_path / "raw").exists()


@pytest.mark.usefixtures("no_network")
def test_the_second_version_is_held_to_its_first_download(tmp_path: Path, cache: Path) -> None:
    make_zip(cache / "afhq_v2.zip", {"train/cat/1.png": image()})
    mark = address_mark(KNOWN_SETS["afhqv2"].url)
    record = {"address": mark, "sha256": "0" * 64, "proven": True}
    (cache / "afhq_v2.zip.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="0" * 64):
        fetch(tmp_path / "raw", "afhqv2")


@pytest.mark.parametrize(
    "name",
    ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png", "a\\b.png"],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "x.zip", {"ok.png": image(), name: image()})
    refused(tmp_path, path, "leads out of its folder|not portable")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("ok.png", image())
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path, tmp_path / "x.zip", "a link or special file: 'link.png'")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_entries_that_stand_twice_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.png", image(1))
        archive.writestr("1.png", image(2))
    refused(tmp_path, tmp_path / "x.zip", "twice")
    path = make_zip(tmp_path / "y.zip", {"a.png": image(), "./a.png": image()})
    refused(tmp_path, path, "twice")
    path = make_zip(tmp_path / "z.zip", {"a": b"x", "a/b.png": image()})
    refused(tmp_path, path, "both a file and a folder")


def test_encrypted_and_odd_entries_are_refused(tmp_path: Path) -> None:
    content = make_zip(tmp_path / "x.zip", {"1.png": image()}).read_bytes()
    central = content.index(b"PK\x01\x02")
    encrypted, odd = bytearray(content), bytearray(content)
    encrypted[central + 8] |= 1
    odd[central + 10 : central + 12] = struct.pack("<H", 97)
    (tmp_path / "e.zip").write_bytes(encrypted)
    (tmp_path / "o.zip").write_bytes(odd)
    refused(tmp_path, tmp_path / "e.zip", "is encrypted")
    refused(tmp_path, tmp_path / "o.zip", "method 97")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server for the files below ``tmp_path / "mirror"``."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "mirror").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "mirror"))

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_mirror_is_asked_once_and_known_by_its_digest(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "mirror" / "tiny copy.zip", {"tiny/cat/1.png": image()})
    url = f"{mirror}/tiny%20copy.zip"
    source = fetch(tmp_path / "raw", url)
    assert source["origin"] == url and source["licence"] is None
    digest = str(source["sha256"])
    known = replace(KNOWN_SETS["afhq"], name="tiny", url=url, sha256=digest, counts={"tiny/cat": 1})
    monkeypatch.setitem(KNOWN_SETS, "tiny", known)
    by_digest = fetch(tmp_path / "raw", path)
    assert by_digest["dataset"] == "tiny" and by_digest["licence"] == known.license
    by_name = fetch(tmp_path / "raw", "tiny")
    assert by_name["origin"] == url and by_name["citation"] == known.citation
    path.unlink()
    assert fetch(tmp_path / "raw", "tiny") == by_name  # from the cache
    assert fetch(tmp_path / "raw", url)["dataset"] == "tiny"
    with pytest.raises(DataError, match="404"):
        fetch(tmp_path / "raw", f"{mirror}/gone.zip")
    assert (tmp_path / "raw" / "tiny" / "cat" / "1.png").read_bytes() == image()


def test_a_bad_first_download_locks_nobody_out(
    tmp_path: Path, mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "mirror" / "tiny.zip", {"cat/1.png": image()})
    whole = path.read_bytes()
    url = f"{mirror}/tiny.zip"
    known = replace(KNOWN_SETS["afhqv2"], name="tiny", url=url, counts={"cat": 1})
    monkeypatch.setitem(KNOWN_SETS, "tiny", known)
    for dataset, file in ((url, "[!.]*-tiny.zip*"), ("tiny", "afhq_v2.zip*")):
        for bad in (whole[:50], b"busy, come back later"):
            path.write_bytes(bad)
            with pytest.raises(DataError, match="not a complete zip file"):
                fetch(tmp_path / "raw", dataset)
            assert not list(cache.glob(file))
        path.write_bytes(whole)
        fetch(tmp_path / "raw", dataset)
    (cache / "afhq_v2.zip").unlink()  # proven: only the same file may take its place
    make_zip(path, {"cat/1.png": image(7)})
    with pytest.raises(DataError, match="its SHA-256 is"):
        fetch(tmp_path / "raw", "tiny")


def test_a_download_survives_a_full_disk(
    tmp_path: Path, mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zip(tmp_path / "mirror" / "tiny.zip", {"cat/1.png": image()})
    usage = SimpleNamespace(free=0)

    def full(path: Path, target: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda folder: usage)
            extract_zip(path, target)

    monkeypatch.setattr("sg3flow.data.fetching.extract_zip", full)
    with pytest.raises(DataError, match="are needed in"):
        fetch(tmp_path / "raw", f"{mirror}/tiny.zip")
    assert len([p for p in cache.iterdir() if p.name.endswith("tiny.zip")]) == 1


def test_a_home_folder_and_a_name_in_capitals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "1.png").write_bytes(image())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(tmp_path / "raw", "~/pics")["counts"] == {".": 1}
    for name in ("AFHQ", "Afhqv2", "~no such user/x"):
        with pytest.raises(ConfigError, match="did you mean" if "fhq" in name.lower() else "no f"):
            fetch(tmp_path / "raw", name)


def test_the_stage_tells_the_tracking_no_password(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zip(tmp_path / "mirror" / "tiny.zip", {"1.png": image()})
    address = mirror.replace("//", "//me:hush@") + "/tiny.zip?token=hush"
    recorded = []

    @contextmanager
    def noted(stage: str, config: FetchConfig, set_name: str) -> Iterator[StageRun]:
        recorded.append(config.dataset)
        yield StageRun(Outbox(tmp_path / "journal"))

    monkeypatch.setattr("sg3flow.tracking.upload_process.tracked_stage", noted)
    result = CliRunner().invoke(fetch_app, ["--dataset", address, "--dest", str(tmp_path / "raw")])
    assert result.exit_code == 0, result.output
    assert recorded == [f"{mirror}/tiny.zip"]
    assert "hush" not in result.output + (tmp_path / "raw" / "SOURCE.json").read_text()


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


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.xz"])
def test_a_tar_file_is_unpacked(tmp_path: Path, suffix: str) -> None:
    mode = {"tar": "w", "tar.xz": "w:xz"}.get(suffix, "w:gz")
    entries = {"./cat/1.png": image(), "cat/2.png": image(9), "notes.txt": b"x"}
    path = make_tar(tmp_path / f"set.{suffix}", entries, mode)
    source = fetch(tmp_path / "raw", path)
    assert source["counts"] == {"cat": 2} and source["dataset"] == "set"
    assert (tmp_path / "raw" / "cat" / "2.png").read_bytes() == image(9)


@pytest.mark.parametrize(
    ("name", "match"),
    [("../evil.png", "leads out"), ("/etc/evil.png", "leads out"), ("a\\b.png", "not portable")],
)
def test_names_in_a_tar_that_lead_out_are_refused(tmp_path: Path, name: str, match: str) -> None:
    refused(tmp_path, make_tar(tmp_path / "x.tar.gz", {name: image()}), match)


def test_odd_entries_of_a_tar_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        refused(tmp_path, tmp_path / "x.tar", r"a link or special file: 'link\.png'")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("a.png", "./a.png"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    refused(tmp_path, tmp_path / "x.tar", "twice")
    path = make_tar(tmp_path / "x.tar", {"a": b"x", "a/b.png": image()}, "w")
    refused(tmp_path, path, "both a file and a folder")


def test_files_that_are_sources_by_themselves_stay_whole(tmp_path: Path) -> None:
    rows = [{"bytes": image(i), "path": f"{i}.png"} for i in range(5)]
    parquet = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 0, 1, 0]}), parquet)
    source = fetch(tmp_path / "raw", parquet)
    assert source["counts"] == {"train/00000-of-00001": 5}
    assert regular_files(tmp_path / "raw") == ["SOURCE.json", parquet.name]
    again = fetch(tmp_path / "copy", tmp_path / "raw")
    assert again["counts"] == source["counts"]
    mnist = tmp_path / "train-images-idx3-ubyte"
    mnist.write_bytes(struct.pack(">4I", 0x803, 3, 28, 28) + bytes(3 * 28 * 28))
    assert fetch(tmp_path / "raw", mnist)["counts"] == {".": 3}
    mnist.write_bytes(b"short")
    with pytest.raises(DataError, match="not an image file of MNIST") as caught:
        fetch(tmp_path / "raw", mnist)
    assert ".tmp" not in str(caught.value)


def test_mirrors_are_tried_in_turn(tmp_path: Path, mirror: str, cache: Path) -> None:
    path = make_zip(tmp_path / "mirror" / "good.zip", {"cat/1.png": image()})
    (tmp_path / "mirror" / "page.zip").write_text("<!doctype html><title>gone</title>")
    dead = [f"{mirror}/gone.zip", f"{mirror}/page.zip"]
    source = fetch(tmp_path / "raw", dead[0], mirrors=(dead[1], f"{mirror}/good.zip"))
    assert source["origin"] == f"{mirror}/good.zip" and source["dataset"] == "gone"
    path.unlink()  # it is in the cache now, and known by the address that gave it
    fetch(tmp_path / "raw", dead[0], mirrors=(dead[1], f"{mirror}/good.zip"))
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "raw", f"{mirror}/1.zip", mirrors=(f"{mirror}/2.zip?token=hush",))
    message = str(caught.value)
    assert f"{mirror}/1.zip: the server answers 404" in message and f"{mirror}/2.zip" in message
    assert "hush" not in message and "\n" not in message


@pytest.mark.usefixtures("no_network")
def test_a_mirror_of_a_known_set_is_held_to_its_digest(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = make_zip(tmp_path / "mirror" / "copy.zip", {"cat/1.png": image()})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = replace(KNOWN_SETS["afhq"], name="tiny", sha256=digest, counts={"cat": 1})
    known = replace(known, url=f"{mirror}/gone.zip")
    monkeypatch.setitem(KNOWN_SETS, "tiny", known)
    make_zip(tmp_path / "mirror" / "other.zip", {"cat/1.png": image(5)})
    mirrors = (f"{mirror}/other.zip", f"{mirror}/copy.zip")
    source = fetch(tmp_path / "raw", "tiny", mirrors=mirrors)
    assert source["origin"] == mirrors[1] and source["licence"] == known.license
