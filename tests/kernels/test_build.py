"""Builds: shared between processes; a failure ends early, with plain PyTorch and one warning."""

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest
import torch

from sg3flow.errors import ConfigError
from sg3flow.files import sha256_file
from sg3flow.kernels import build as builds
from sg3flow.kernels.build import find_build, make_build
from sg3flow.kernels.watchdog import run_watched
from sg3flow.resources import available_cpus


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return out.split(), [line for line in err.splitlines() if line and "(files)" not in line]


def test_a_build_is_made_once_and_found_without_a_compiler(compiler, monkeypatch, capfd):
    calls = compiler()
    assert find_build() is None
    path = make_build()
    assert capfd.readouterr().err.count("building CPU kernels") == 1
    made = calls()
    assert made > 5 and make_build() == path and calls() == made
    assert sorted(p.name for p in path.parent.iterdir()) == ["build.json", "kernels.so"]
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert find_build() == path


def test_other_sources_torch_or_compilers_are_other_builds(compiler, monkeypatch):
    compiler()
    first = make_build()
    compiler("# another")  # says the same version: the same build
    assert make_build() == first
    monkeypatch.setattr(builds.torch, "__version__", "9.9.9")
    assert find_build() is None
    assert make_build() != first


@pytest.mark.parametrize("content", [b"", b"no library", None])
def test_a_damaged_library_is_built_again(compiler, content):
    calls = compiler()
    path = make_build()
    made = calls()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert find_build() is None
    assert make_build() == path and calls() == made  # of the objects that were kept
    assert find_build() == path
    assert make_build(clean=True) == path and calls() == 2 * made


def test_a_compiler_that_fails_is_quoted_and_tried_again_at_the_next_start(compiler):
    calls = compiler('echo "x.cpp:1: error: no such thing" >&2; exit 1')
    for _ in range(2):
        before = calls()
        with pytest.raises(ConfigError, match=r"no such thing.*install g\+\+"):
            make_build()
        assert calls() > before
    compiler()
    assert make_build().is_file()
    assert not list(builds.kernels_folder().glob(".*.failed"))


def test_who_waited_for_a_build_that_failed_does_not_repeat_it(held_lock, compiler, monkeypatch):
    """The processes of a training get one failure, and not one after the other."""
    path, stream = held_lock
    calls = compiler("exit 1")
    monkeypatch.setattr(builds, "is_complete", lambda build: False)
    waits = threading.Event()
    lock = builds.locked

    def locked(path):
        waits.set()
        return lock(path)

    monkeypatch.setattr(builds, "locked", locked)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make_build)
        assert waits.wait(20)
        (library,) = path.parent.glob("cpu-*")
        builds._failure_note(library).write_text('{"reason": "the disk is full"}')
        fcntl.flock(stream, fcntl.LOCK_UN)
        with pytest.raises(ConfigError, match="the disk is full"):
            waiting.result(timeout=20)
    assert calls() == 0
    with pytest.raises(ConfigError, match=r"c\+\+ failed"):
        make_build(clean=True)
    assert calls() > 0


@pytest.mark.parametrize("behavior", ["sleep 61", "trap '' TERM INT HUP; sleep 61 & wait"])
@pytest.mark.medium
def test_a_compiler_that_hangs_is_ended(compiler, monkeypatch, behavior):
    compiler(behavior)
    monkeypatch.setenv("SG3FLOW_BUILD_SEC", "0.6")
    with pytest.raises(ConfigError, match=r"sleep 61 did not finish in 1 s; .*BUILD_SEC"):
        make_build()
    folder = builds.kernels_folder()
    assert {p.suffix for p in folder.iterdir()} == {".lock", ".failed", ".work"}
    mine = [p for p in psutil.Process().children(recursive=True) if "c++" in " ".join(p.cmdline())]
    assert mine == []
    asleep = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "61"]]
    assert psutil.wait_procs(asleep, timeout=20)[1] == []  # killed, but not always gone at once


def test_a_compiler_that_does_not_even_answer(compiler, monkeypatch, tmp_path):
    compiler()
    (tmp_path / "compiler" / "c++").write_text("#!/bin/sh\nsleep 60\n")
    monkeypatch.setattr("sg3flow.kernels.build_plan._PROBE_SEC", 0.2)
    with pytest.raises(ConfigError, match="does not answer"):
        make_build()


@pytest.fixture
def held_lock(compiler):
    """The lock of a build, held by another process."""
    compiler()
    path = next(make_build().parents[1].glob(".cpu-*.lock"))
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield path, stream


def test_a_lock_that_is_held_for_longer_than_a_build_is_an_error(held_lock, monkeypatch):
    monkeypatch.setenv("SG3FLOW_BUILD_SEC", "0.3")
    with pytest.raises(ConfigError, match=r"another process has held .* for 0 s; end it"):
        make_build()


def test_waits_for_a_lock_whose_owner_seems_idle_and_says_so(held_lock, monkeypatch, capfd):
    monkeypatch.setattr("sg3flow.kernels.watchdog._QUIET_SEC", 0.1)
    _, stream = held_lock
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make_build)
        said = ""
        while "waiting for another process that builds the kernels, 0 s so far" not in said:
            said += capfd.readouterr().err
            time.sleep(0.02)
        assert not waiting.done()
        fcntl.flock(stream, fcntl.LOCK_UN)
        assert waiting.result(timeout=20).is_file()


def test_a_program_that_takes_no_cpu_time_is_waited_for(tmp_path):
    """As on a cold disk: only the clock counts."""
    polled = []
    found = run_watched(["sleep", "0.5"], tmp_path, lambda: polled.append(1), most_sec=60)
    assert found == (0, "") and polled


def test_a_left_lock_file_without_an_owner_does_not_block(compiler):
    compiler()
    path = make_build()
    lock = next(path.parents[1].glob(".cpu-*.lock"))
    lock.write_text("left by a process that was killed\n")
    assert make_build(clean=True) == path


def test_a_cache_that_cannot_be_written(compiler, monkeypatch, tmp_path):
    compiler()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="make that folder writable"):
        make_build()


@pytest.mark.medium
def test_a_cache_without_permission_to_write(compiler, use_ops, tmp_path):
    """root may write everywhere, so its process drops that privilege."""
    compiler()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    drop = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to forbid it")
    out, err = finish(use_ops(*drop, SG3FLOW_KERNELS=str(closed)))
    assert out == ["torch", "1.0"]
    assert len(err) == 1 and "Permission denied; make that folder writable" in err[0]


def test_without_ninja(compiler, monkeypatch):
    compiler()
    nothing = SimpleNamespace(which=lambda *_, **__: None)
    monkeypatch.setattr("sg3flow.kernels.build.shutil", nothing)
    with pytest.raises(ConfigError, match="pip install ninja"):
        make_build()


def test_data_loading_processes_do_not_build(compiler, monkeypatch):
    from sg3flow.ops import backend

    calls = compiler()
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: object())
    with pytest.raises(ConfigError, match="data loading"):
        backend.load_kernels.__wrapped__("cpu")
    assert calls() == 0


@pytest.mark.medium
def test_processes_at_once_share_one_build(compiler, use_ops):
    calls = compiler("sleep 0.3")
    found = [finish(process) for process in [use_ops() for _ in range(2)]]
    assert [out for out, _ in found] == [["cpu", "1.0"]] * 2
    assert any("build" in line for _, err in found for line in err)
    assert calls() == len(builds.make_build_plan().objects) + 1


@pytest.mark.medium
def test_without_a_compiler_plain_pytorch_serves_with_one_warning(compiler, use_ops):
    compiler()
    auto = use_ops(CXX="/nowhere/c++")
    out, err = finish(auto)
    assert out == ["torch", "1.0"]
    assert len(err) == 1 and "no C++ compiler" in err[0] and "apt install g++" in err[0]


def test_without_a_compiler_kernels_that_are_asked_for_are_an_error(compiler, monkeypatch, caplog):
    compiler()
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr("sg3flow.ops.backend.load_kernels", uncached("load_kernels"))
    for wanted in ("cpu", "torch"):
        monkeypatch.setenv("SG3FLOW_OPS", wanted)
        if wanted == "torch":
            assert uncached("backend_name")("cpu") == "torch"
            continue
        with pytest.raises(ConfigError, match=r"SG3FLOW_OPS=cpu: no C\+\+ compiler"):
            uncached("backend_name")("cpu")
    assert caplog.text == ""


@pytest.mark.medium
def test_a_library_that_does_not_load_is_a_warning(compiler, use_ops, tmp_path):
    compiler("library=1")
    path = make_build()
    path.write_bytes(b"no library")
    record = json.loads((path.parent / "build.json").read_text())
    record["sha256"] = builds.sha256_file(path)
    (path.parent / "build.json").write_text(json.dumps(record))
    out, err = finish(use_ops())
    assert out == ["torch", "1.0"] and len(err) == 1 and "does not load" in err[0]


@pytest.mark.medium
def test_what_a_killed_build_made_is_used_and_its_orphans_disturb_nothing(
    compiler, use_ops, tmp_path
):
    calls = compiler("sleep 1")
    process = use_ops()
    at_work = available_cpus()  # compilers at once; the object that one was writing is not whole
    while len(list(tmp_path.glob("cache/.cpu-*.work/*.o"))) <= at_work:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert find_build() is None
    whole = len(list(tmp_path.glob("cache/.cpu-*.work/*.o"))) - at_work
    compiler()
    assert make_build().is_file()
    assert calls() <= len(builds.make_build_plan().objects) + 1 - whole


def test_an_object_is_made_again_when_its_source_changed_and_only_then(compiler, monkeypatch):
    calls = compiler()
    make_build()
    calls = compiler()
    wanted = "pointwise.cpp"

    def changed(path):
        return "0" * 64 if path.name == wanted else sha256_file(path)

    monkeypatch.setattr(builds, "sha256_file", changed)
    make_build()
    variants = [name for name in builds.make_build_plan().objects if "pointwise" in name]
    assert calls() == len(variants) + 1  # and the link
    wanted = "simd.h"  # any of them may include it
    make_build()
    assert calls() == len(variants) + 1 + len(builds.make_build_plan().objects) + 1


@pytest.mark.parametrize(
    ("behavior", "settings", "line"),
    [
        ("", {}, "cpu: compiled kernels for "),
        ("echo 'x.cpp: error: no' >&2; exit 1", {}, "because c++ failed: x.cpp: error: no"),
        ("sleep 60", {"SG3FLOW_BUILD_SEC": "0.6"}, "because sleep 60 did not finish"),
        ("", {"SG3FLOW_OPS": "torch"}, "cpu: pure PyTorch, because SG3FLOW_OPS=torch"),
        ("exit 1", {"SG3FLOW_OPS": "cpu"}, "cpu: every op fails, because c++ failed"),
    ],
)
def test_the_doctor_says_what_is_used_and_why(compiler, monkeypatch, behavior, settings, line):
    from sg3flow.cli import status

    compiler(behavior)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    # This process has loaded the library already.
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(status, "cuda_compiler", lambda: "none")  # others test what loads NVRTC
    monkeypatch.setattr(status, "load_kernels", uncached("load_kernels"))
    assert line in "\n".join(status.examine())


def uncached(name):
    """A function of the choice of ops, as in a new process."""
    from sg3flow.ops import backend

    if name == "load_kernels":
        return backend.load_kernels.__wrapped__
    return lambda device: backend._chosen.__wrapped__(str(device), os.environ["SG3FLOW_OPS"])


def test_a_rebuild_that_fails_is_an_error(compiler):
    from sg3flow.cli.status import examine

    compiler("echo 'x.cpp: error: no' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"x\.cpp: error: no"):
        list(examine(rebuild=True))
