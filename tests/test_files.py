"""Durable files: all or nothing."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sg3flow.files import (
    atomic_folder,
    atomic_write,
    copy_file,
    final_path,
    link_or_copy,
    sha256_file,
    write_bytes,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(target) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_a_good_block_replaces_and_respects_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "sub" / "a.bin") as stream:
            stream.write(b"new")
    finally:
        os.umask(before)
    target = tmp_path / "sub" / "a.bin"
    assert target.read_bytes() == b"new" and target.stat().st_mode & 0o777 == 0o640


def test_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as work:
        (work / "new").write_text("new")
        raise RuntimeError
    assert names(target) == ["old"] and names(tmp_path) == ["out"]
    with atomic_folder(target) as work:
        (work / "new").write_text("new")
    assert names(target) == ["new"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_between_the_renames_brings_the_old_folder_back(tmp_path, monkeypatch, error):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    rename, sources = os.replace, []

    def fails_at_second(source, dest):
        sources.append(source)
        if len(sources) == 2:
            raise error
        rename(source, dest)

    monkeypatch.setattr(os, "replace", fails_at_second)
    with pytest.raises(error), atomic_folder(target) as work:
        (work / "new").write_text("new")
    assert len(sources) == 3
    assert names(target) == ["old"] and names(tmp_path) == ["out"]


def test_a_folder_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.replace

    def noted_sync(handle):
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def noted_rename(source, dest):
        events.append("renamed")
        rename(source, dest)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    with atomic_folder(tmp_path / "out") as work:
        (work / "sub").mkdir()
        (work / "sub" / "a").write_text("a")
        (work / "link").symlink_to("/nowhere")
        name = work.name
    assert events == ["a", "sub", name, "renamed", tmp_path.name]


def test_leftovers_of_a_killed_process_are_removed_after_a_day(tmp_path, monkeypatch):
    for name in (".a.bin.0123abcd.tmp", ".a.bin.0123abcd.xyz", ".b.bin.0123abcd.tmp"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".a.bin.89abcdef.old").mkdir()
    (tmp_path / ".a.bin.89abcdef.old" / "only copy").write_bytes(b"x")
    before = names(tmp_path)
    write_bytes(tmp_path / "other", b"x")
    write_bytes(tmp_path / "a.bin", b"x")
    assert names(tmp_path) == sorted([*before, "a.bin", "other"])
    (tmp_path / "a.bin").unlink()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    write_bytes(tmp_path / "a.bin", b"x")
    assert ".a.bin.0123abcd.tmp" not in names(tmp_path)
    assert ".a.bin.89abcdef.old" in names(tmp_path)
    write_bytes(tmp_path / "a.bin", b"x")
    assert names(tmp_path) == [".a.bin.0123abcd.xyz", ".b.bin.0123abcd.tmp", "a.bin", "other"]


def test_json_refuses_nan_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert names(tmp_path) == []


def test_copy_and_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    copy_file(tmp_path / "a", tmp_path / "b")
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    program = (
        "import os, sys; from pathlib import Path; from sg3flow.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as s:\n"
        "    s.write(b'x' * 100_000); s.flush(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == -9
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from sg3flow.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == errno.EFBIG
    assert target.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_a_link_takes_the_place_of_a_file_and_survives_its_source(tmp_path):
    source, target = tmp_path / "a", tmp_path / "folder" / "b"
    source.write_bytes(b"new")
    target.parent.mkdir()
    target.write_bytes(b"old")
    for _ in range(2):  # the second time both are one file already
        link_or_copy(source, target)
        assert target.samefile(source) and target.read_bytes() == b"new"
        assert list(target.parent.iterdir()) == [target]
    write_bytes(source, b"newer")
    assert target.read_bytes() == b"new"


def test_a_link_to_a_symbolic_link_has_the_content(tmp_path):
    (tmp_path / "real").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    link_or_copy(tmp_path / "link", tmp_path / "b")
    assert not (tmp_path / "b").is_symlink() and (tmp_path / "b").samefile(tmp_path / "real")


def test_a_link_to_nothing_changes_nothing(tmp_path):
    (tmp_path / "b").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"] and (tmp_path / "b").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("path", "final"),
    [
        (".a.bin.0123abcd.tmp", "a.bin"),
        ("out/.x.0123abcd.tmp/dvc.yaml", "out/x/dvc.yaml"),
        ("/o/.faces.0123abcd.old", "/o/faces"),
        (".a.bin.0123abcd.tmpx", ".a.bin.0123abcd.tmpx"),
        ("a.0123abcd.tmp", "a.0123abcd.tmp"),
    ],
)
def test_messages_name_the_file_that_was_to_be(path, final):
    assert final_path(path) == final


def test_a_temporary_name_is_recognized(tmp_path):
    with atomic_folder(tmp_path / "faces") as work:
        assert final_path(str(work / "a")) == str(tmp_path / "faces" / "a")
