"""Packing under bad conditions: odd names, what may not be read, a kill, and many images."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sg3flow.config import PackConfig
from sg3flow.data.archive import PackedSet
from sg3flow.data.manifest import read_manifest
from sg3flow.data.packing import PackSummary, pack_images
from sg3flow.errors import DataError


def pack(source: Path, dest: Path, workers: int = 1, **config: object) -> PackSummary:
    manifest = dest.with_name("manifest.parquet")
    return pack_images(source, dest, manifest, PackConfig(**config), workers=workers)


def problems(dest: Path) -> dict[str, str]:
    rows = read_manifest(dest.with_name("manifest.parquet"))
    return {row["path"]: row["left_out"] for row in rows.to_dict("records") if row["left_out"]}


@pytest.fixture
def raw(tmp_path, noise, png) -> Path:
    (tmp_path / "raw").mkdir()
    for i in range(3):
        (tmp_path / "raw" / f"{i}.png").write_bytes(png(noise(i)))
    return tmp_path / "raw"


def test_names_that_are_no_utf8_and_names_that_differ_in_case(raw, tmp_path, noise, png):
    folder = os.fsencode(raw) + b"/d\xf6gs"
    os.mkdir(folder)
    for i, name in enumerate((b"h\xe9.png", b"A.png", b"a.png")):
        with open(folder + b"/" + name, "wb") as stream:
            stream.write(png(noise(10 + i)))
    summary = pack(raw / os.fsdecode(b"d\xf6gs"), tmp_path / "set.zip", 2)
    assert summary.num_packed == 3
    paths = read_manifest(tmp_path / "manifest.parquet")["path"].tolist()
    assert paths == ["A.png", "a.png", "h\\xe9.png"]
    for i in range(3):
        (raw / f"{i}.png").unlink()
    assert pack(raw, tmp_path / "set.zip", labels="folders").classes == {"d\\xf6gs": 3}


def test_paths_longer_than_the_system_takes(raw, tmp_path):
    """Made by going down step by step, as unpackers do; no single call can name the end."""
    here = os.open(raw, os.O_RDONLY)
    for _ in range(24):
        os.mkdir("d" * 200, dir_fd=here)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(DataError, match=r"1 of 4 images cannot be used .*name too long"):
        pack(raw, tmp_path / "set.zip")
    assert pack(raw, tmp_path / "set.zip", max_rejects=1).num_packed == 3


def test_if_nothing_can_be_packed_the_error_names_the_first_image(raw, tmp_path):
    (raw / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of the 3 images .*first, 0\.png: .*min_side 99"):
        pack(raw, tmp_path / "set.zip", min_side=99, max_rejects=3)


def test_folders_and_files_that_may_not_be_read(raw, tmp_path, monkeypatch):
    """As root nothing is forbidden, so the system's answer is put in."""
    (raw / "closed").mkdir()
    scan, read = os.scandir, Path.read_bytes

    def guarded_scan(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    def guarded_read(path):
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(os, "scandir", guarded_scan)
    monkeypatch.setattr(Path, "read_bytes", guarded_read)
    summary = pack(raw, tmp_path / "set.zip", max_rejects=2)
    assert summary.num_packed == 2 and summary.left_out == {"unreadable": 2}
    found = problems(tmp_path / "set.zip")
    assert found["closed"] == "unreadable: cannot be listed: Permission denied"
    assert found["1.png"] == "unreadable: 1.png cannot be read: Permission denied"
    with pytest.raises(DataError, match="closed: cannot be listed"):
        PackedSet(raw)


def test_a_source_that_may_not_be_read_is_named(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != raw)
    with pytest.raises(DataError, match="raw is not readable; change its permissions"):
        pack(raw, tmp_path / "set.zip")


def test_the_manifest_does_not_depend_on_the_location_of_the_source(raw, tmp_path, noise, png):
    good = png(noise(0))
    manifests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "raw.zip", "w") as archive:
            archive.writestr("a.png", good)
            archive.writestr("b.png", good)
        content = (tmp_path / name / "raw.zip").read_bytes()
        last = content.rindex(good)
        damaged = content[:last] + bytes(8) + content[last + 8 :]
        (tmp_path / name / "raw.zip").write_bytes(damaged)
        pack(tmp_path / name / "raw.zip", tmp_path / name / "set.zip", max_rejects=1)
        manifests.append((tmp_path / name / "manifest.parquet").read_bytes())
        found = problems(tmp_path / name / "set.zip")["b.png"]
        assert found == "unreadable: entry b.png is damaged (CRC-32 does not match)"
    assert manifests[0] == manifests[1]


def test_links_to_nothing_and_to_themselves(raw, tmp_path):
    (raw / "gone.png").symlink_to("nowhere.png")
    (raw / "self.png").symlink_to("self.png")
    assert pack(raw, tmp_path / "set.zip", max_rejects=2).num_packed == 3
    assert sorted(problems(tmp_path / "set.zip")) == ["gone.png", "self.png"]


def test_every_kind_of_bad_file_at_once(raw, tmp_path, noise, png):
    good = png(noise(9, 64, 64, 3))
    (raw / "empty.png").write_bytes(b"")
    (raw / "text.jpg").write_text("<html>not found</html>")
    (raw / "cut.png").write_bytes(good[: len(good) // 2])
    bomb = Image.new("1", (20_000, 20_000))
    bomb.save(raw / "bomb.png")
    (raw / "renamed.gif").write_bytes(png(noise(8)))
    with pytest.raises(DataError, match=r"4 of 8 .*first is bomb\.png: .*decompression bomb"):
        pack(raw, tmp_path / "set.zip", max_rejects=3)
    assert not (tmp_path / "set.zip").exists()
    summary = pack(raw, tmp_path / "set.zip", max_rejects=4)
    assert summary.num_packed == 4 and summary.changes == {"wrong ending": 1}
    assert sorted(problems(tmp_path / "set.zip")) == [
        "bomb.png",
        "cut.png",
        "empty.png",
        "text.jpg",
    ]


def test_images_that_the_settings_leave_out(raw, tmp_path, noise, png):
    (raw / "wide.png").write_bytes(png(noise(5, 16, 32, 3)))
    (raw / "small.png").write_bytes(png(noise(6, 8, 8, 3)))
    config = {"resolution": "16x16", "aspect": "square", "min_side": 16}
    with pytest.raises(DataError, match=r"2 of 5 .*first is small\.png: 8x8 is below min_side 16"):
        pack(raw, tmp_path / "set.zip", 2, max_rejects=1, **config)
    summary = pack(raw, tmp_path / "set.zip", 2, max_rejects=2, **config)
    assert summary.left_out == {"not square": 1, "too small": 1} and summary.num_packed == 3
    found = problems(tmp_path / "set.zip")
    assert found == {"wide.png": "32x16 is not square", "small.png": "8x8 is below min_side 16"}


_PACK = """
import signal, sys
from pathlib import Path
from sg3flow.config import PackConfig
from sg3flow.data.packing import pack_images
if __name__ == "__main__":
    # not ignored, though a shell that starts the tests in the background may say so
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pack_images(*map(Path, sys.argv[1:4]), PackConfig(), workers=2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.medium
def test_an_interrupted_packing_leaves_no_set_and_starts_again(raw, tmp_path, noise, png, how):
    for i in range(3, 400):
        (raw / f"{i}.png").write_bytes(png(noise(i, 128, 128, 3)))
    (raw / "0.png").write_bytes(png(noise(0, 128, 128, 3)))
    for i in (1, 2):
        (raw / f"{i}.png").unlink()
    program = tmp_path / "program.py"
    program.write_text(_PACK)
    out = tmp_path / "out"
    paths = raw, out / "set.zip", out / "m.parquet"
    command = [sys.executable, program, *map(str, paths)]
    for _ in range(5):  # it may be through before this process has its turn
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if out.exists() and sum(p.stat().st_size for p in out.iterdir()) > 500_000:
                process.send_signal(how)
                break
            time.sleep(0.01)
        if process.wait(timeout=30) != 0:
            break
        shutil.rmtree(out)
    assert process.returncode != 0
    assert not paths[1].exists() and not paths[2].exists()
    for partial in out.iterdir() if how == signal.SIGKILL else ():
        assert partial.name.startswith(".")
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(partial)
    summary = pack_images(*paths, PackConfig(), workers=1)
    assert summary.num_packed == 398 and PackedSet(paths[1]).digest == summary.digest


_GROWTH = """
import resource, sys
from pathlib import Path
from sg3flow.config import PackConfig
from sg3flow.data.packing import pack_images
if __name__ == "__main__":
    config = PackConfig(max_images=int(sys.argv[4]))
    pack_images(*map(Path, sys.argv[1:4]), config, workers=2)
    peak = resource.getrusage
    print(max(peak(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


@pytest.mark.medium
def test_memory_does_not_grow_with_the_images(tmp_path, noise, png):
    """700 images of 128 px are 34 MB packed: what is held of each is its row."""
    raw = tmp_path / "raw"
    raw.mkdir()
    contents = [png(noise(i, 128, 128, 3)) for i in range(10)]
    for i in range(700):
        (raw / f"{i:04d}.png").write_bytes(contents[i % 10])
    program = tmp_path / "program.py"
    program.write_text(_GROWTH)
    peaks = []
    for number in (50, 700):
        command = [sys.executable, program, raw, tmp_path / "set.zip", tmp_path / "m", str(number)]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    assert peaks[1] - peaks[0] < 10_000_000, peaks
