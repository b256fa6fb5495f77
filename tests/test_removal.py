"""What a removal frees, and what it leaves alone."""

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from sg3flow.runs.removal import (
    Removable,
    entries,
    freed_bytes,
    is_free,
    is_old,
    named_bytes,
    remove,
)


def test_bytes_are_freed_with_the_last_name_only(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").write_bytes(os.urandom(10_000))
    os.link(folder / "a", folder / "b")
    os.link(folder / "a", tmp_path / "elsewhere")
    size = (folder / "a").stat().st_blocks * 512
    items = [Removable("g", folder / name, "") for name in "ab"]
    assert freed_bytes(items) == [0, 0] and named_bytes(items) == size
    (tmp_path / "elsewhere").unlink()
    assert freed_bytes(items) == [0, size] and freed_bytes(items[:1]) == [0]
    assert freed_bytes([Removable("g", folder, "")]) == [size]


def test_what_vanished_is_no_error_and_a_link_in_its_place_is_left_alone(tmp_path):
    assert remove(Removable("g", tmp_path / "none", ""))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert not remove(Removable("g", tmp_path / "link", "")) and (tmp_path / "link").exists()
    assert freed_bytes([Removable("g", tmp_path / "none", "")]) == [0]


def test_a_folder_is_as_old_as_the_newest_thing_in_it(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(b"1")
    then = time.time() - 3 * 24 * 3600
    for path in (tmp_path / "below" / "a", tmp_path / "below", tmp_path):
        assert not is_old(tmp_path, 2)
        os.utime(path, (then, then))
    assert is_old(tmp_path, 2) and not is_old(tmp_path, 4)
    assert not is_old(tmp_path / "none", 0)
    (tmp_path / "link").symlink_to("below/a")
    assert not is_old(tmp_path / "link", 2) and entries(tmp_path) == [tmp_path / "below"]
    assert entries(tmp_path / "none") == entries(tmp_path / "below" / "a") == []


def test_what_another_process_uses_stays(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    item = Removable("g", tmp_path / "a", "", lambda: nullcontext(False))
    assert not is_free(item) and not remove(item) and (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_emptied_is_gone_under_its_name(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sg3flow.runs.removal.shutil.rmtree", refused)
    with pytest.raises(PermissionError):
        remove(Removable("g", Path(tmp_path / "a"), ""))
    assert not (tmp_path / "a").exists()
    assert [path.suffix for path in tmp_path.iterdir()] == [".removed"]
