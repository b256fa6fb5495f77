"""Durable files: all or nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sg3flow.files import copy_file, replaced_file, replaced_folder, sha256_file, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), replaced_file(target) as stream:
        stream.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_a_good_block_replaces_and_respects_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replaced_file(tmp_path / "sub" / "a.bin") as stream:
            stream.write(b"new")
    finally:
        os.umask(before)
    target = tmp_path / "sub" / "a.bin"
    assert target.read_bytes() == b"new" and target.stat().st_mode & 0o777 == 0o640


def test_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), replaced_folder(target) as work:
        (work / "new").write_text("new")
        raise RuntimeError
    assert names(target) == ["old"] and names(tmp_path) == ["out"]
    with replaced_folder(target) as work:
        (work / "new").write_text("new")
    assert names(target) == ["new"] and names(tmp_path) == ["out"]


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
        "import os, sys; from pathlib import Path; from sg3flow.files import replaced_file\n"
        "with replaced_file(Path(sys.argv[1])) as s:\n"
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
