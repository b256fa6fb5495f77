"""Builds never stand in the way: each failure ends soon, in plain PyTorch and one warning."""

import json
import os
import signal
import time

import pytest

from sg3flow.errors import ConfigError
from sg3flow.kernels import build as builds
from sg3flow.kernels.build import find_build, make_build


def finish(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return out.split(), [line for line in err.splitlines() if line]


def test_a_build_is_made_once_and_found_without_a_compiler(compiler, monkeypatch, capfd):
    calls = compiler()
    assert find_build("cpu") is None
    path = make_build("cpu")
    assert capfd.readouterr().err.count("building CPU kernels") == 1
    made = calls()
    assert made > 5 and make_build("cpu") == path and calls() == made
    assert sorted(p.name for p in path.parent.iterdir()) == ["build.json", "kernels.so"]
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert find_build("cpu") == path


def test_other_sources_torch_or_compilers_are_other_builds(compiler, monkeypatch):
    compiler()
    first = make_build("cpu")
    compiler("# another")  # says the same version: the same build
    assert make_build("cpu") == first
    monkeypatch.setattr(builds.torch, "__version__", "9.9.9")
    assert find_build("cpu") is None
    assert make_build("cpu") != first


@pytest.mark.parametrize("content", [b"", b"no library", None])
def test_a_spoilt_library_is_built_again(compiler, content):
    calls = compiler()
    path = make_build("cpu")
    made = calls()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert find_build("cpu") is None
    assert make_build("cpu") == path and calls() == 2 * made
    assert find_build("cpu") == path


def test_a_compiler_that_fails_is_quoted_and_not_tried_again_at_once(compiler):
    calls = compiler('echo "x.cpp:1: error: no such thing" >&2; exit 1')
    with pytest.raises(ConfigError, match=r"no such thing.*install g\+\+"):
        make_build("cpu")
    tried = calls()
    with pytest.raises(ConfigError, match=r"no such thing.*doctor --rebuild"):
        make_build("cpu")
    assert calls() == tried
    compiler()
    assert make_build("cpu", anew=True).is_file()
    assert make_build("cpu").is_file()


def test_a_compiler_that_hangs_is_ended(compiler, monkeypatch):
    compiler("sleep 60")
    monkeypatch.setenv("SG3FLOW_BUILD_SEC", "0.5")
    start = time.monotonic()
    with pytest.raises(ConfigError, match="did not finish"):
        make_build("cpu")
    assert time.monotonic() - start < 20
    folder = builds.kernels_folder()
    assert not [p for p in folder.iterdir() if not p.name.endswith((".lock", ".failed"))]


def test_a_compiler_that_does_not_even_answer(compiler, monkeypatch, tmp_path):
    compiler()
    (tmp_path / "compiler" / "c++").write_text("#!/bin/sh\nsleep 60\n")
    monkeypatch.setattr("sg3flow.kernels.recipes._PROBE_SEC", 0.2)
    with pytest.raises(ConfigError, match="does not answer"):
        make_build("cpu")


def test_a_lock_that_is_held_is_waited_for_only_so_long(compiler, monkeypatch):
    import fcntl

    compiler()
    path = make_build("cpu").parent
    monkeypatch.setenv("SG3FLOW_BUILD_SEC", "0.5")
    with path.with_name(f".{path.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process"):
            make_build("cpu")
    assert make_build("cpu").is_file()


def test_a_cache_that_cannot_be_written(compiler, monkeypatch, tmp_path):
    compiler()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="make that folder writable"):
        make_build("cpu")


def test_data_loading_processes_do_not_build(compiler, monkeypatch):
    from sg3flow.kernels import loader

    calls = compiler()
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: object())
    with pytest.raises(ConfigError, match="data loading"):
        loader.load_kernels.__wrapped__("cpu")
    assert calls() == 0


def test_processes_at_once_share_one_build(compiler, use_ops):
    calls = compiler("sleep 0.3")
    found = [finish(process) for process in [use_ops() for _ in range(3)]]
    assert [out for out, _ in found] == [["cpu", "1.0"]] * 3
    assert sum(len(err) for _, err in found) == 1  # one of them says that it builds
    assert calls() == len(builds.make_recipe("cpu").objects) + 1


def test_without_a_compiler_plain_pytorch_serves_with_one_warning(compiler, use_ops):
    compiler()
    auto = use_ops(CXX="/nowhere/c++")
    forced = use_ops(CXX="/nowhere/c++", SG3FLOW_OPS="cpu")
    plain = use_ops(CXX="/nowhere/c++", SG3FLOW_OPS="torch")
    out, err = finish(auto)
    assert out == ["torch", "1.0"]
    assert len(err) == 1 and "there is no C++ compiler" in err[0] and "apt install g++" in err[0]
    out, err = finish(forced)
    assert forced.returncode == 1 and out == [] and "SG3FLOW_OPS=cpu: there is no C++" in err[-1]
    assert finish(plain) == (["torch", "1.0"], [])


def test_a_library_that_does_not_load_is_a_warning(compiler, use_ops, tmp_path):
    compiler("library=1")
    path = make_build("cpu")
    path.write_bytes(b"no library")
    record = json.loads((path.parent / "build.json").read_text())
    record["sha256"] = builds.sha256_file(path)
    (path.parent / "build.json").write_text(json.dumps(record))
    out, err = finish(use_ops())
    assert out == ["torch", "1.0"] and len(err) == 1 and "does not load" in err[0]


def test_a_build_that_was_killed_leaves_nothing_in_the_way(compiler, use_ops, tmp_path):
    compiler("sleep 5")
    process = use_ops()
    folder = tmp_path / "cache"
    while not (folder.is_dir() and any(p.name.endswith(".tmp") for p in folder.iterdir())):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert find_build("cpu") is None
    compiler()
    start = time.monotonic()
    assert make_build("cpu").is_file()
    assert time.monotonic() - start < 4
