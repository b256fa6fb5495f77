"""The cache of CUDA programs: what is compiled once, again, and for which GPU."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sg3flow.errors import ConfigError
from sg3flow.files import file_lock
from sg3flow.kernels import cuda_compile
from sg3flow.kernels.cuda_compile import Program, compiled, read_compiled, remove_compiled, target
from sg3flow.kernels.nvrtc import Compiled

PROGRAM = Program("some", "upfirdn2d.cu", ("sg3::upfirdn_kernel<float>",))


class Compiler:
    """Stands in for NVRTC: it keeps what it was asked."""

    version = (13, 0)

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def architectures(self):
        return [70, 75, 80, 90]

    def headers_folder(self, extracted):
        return self.folder

    def compile(self, *arguments):
        self.asked.append(arguments)
        _, _, _, kernels, options = arguments
        names = {kernel: f"lowered {kernel}" for kernel in kernels}
        return Compiled(f"code of {options[0]}\n\n".encode(), names, "a warning")


@pytest.fixture
def nvrtc(tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path / "cache"))
    cuda_compile._say_not_kept.cache_clear()
    cuda_compile._digest_of_headers.cache_clear()
    return Compiler(tmp_path)


def files(tmp_path):
    return sorted((tmp_path / "cache").glob("*.bin"))


def test_a_program_is_compiled_once_with_all_that_it_includes(nvrtc, tmp_path, capfd):
    made = compiled(PROGRAM, "sm_90", nvrtc)
    assert compiled(PROGRAM, "sm_90", nvrtc) == made and len(nvrtc.asked) == 1
    source, name, headers, kernels, options = nvrtc.asked[0]
    assert name == "upfirdn2d.cu" and "upfirdn_kernel" in source and kernels == PROGRAM.kernels
    assert {"grid.cuh", "generic.h", "launch.h", "portable.h", "freestanding.h"} <= set(headers)
    assert "band_tile.h" not in headers
    assert options[0] == "--gpu-architecture=sm_90" and f"-I{tmp_path}" in options
    assert made.names == {PROGRAM.kernels[0]: f"lowered {PROGRAM.kernels[0]}"}
    assert capfd.readouterr().err == "compiling CUDA kernels: some for sm_90\n"
    remove_compiled()
    assert files(tmp_path) == []


@pytest.mark.parametrize("change", ["source", "kernels", "checks", "architecture", "nvrtc", "cuda"])
def test_all_that_decides_the_code_makes_another_file(nvrtc, tmp_path, monkeypatch, change):
    compiled(PROGRAM, "sm_90", nvrtc)
    program, architecture = PROGRAM, "sm_90"
    if change == "source":
        texts = cuda_compile.source_text
        changed = lambda name: texts(name) + ("// more\n" if name == "geometry.h" else "")  # noqa: E731
        monkeypatch.setattr(cuda_compile, "source_text", changed)
    elif change == "kernels":
        program = dataclasses.replace(PROGRAM, kernels=("sg3::upfirdn_kernel<double>",))
    elif change == "checks":
        program = dataclasses.replace(PROGRAM, checks="static_assert(true);\n")
    elif change == "architecture":
        architecture = "sm_80"
    elif change == "nvrtc":
        nvrtc.version = (13, 1)
    else:
        (tmp_path / "cuda_fp16.hpp").write_text("// another release\n")
        cuda_compile._digest_of_headers.cache_clear()
    compiled(program, architecture, nvrtc)
    assert len(nvrtc.asked) == len(files(tmp_path)) == 2


@pytest.mark.parametrize("damage", [b"", b"sg3flow CUDA program 1\n", "cut", "changed", "no JSON"])
def test_a_damaged_file_is_made_again(nvrtc, tmp_path, damage):
    made = compiled(PROGRAM, "sm_90", nvrtc)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    changes = {
        "cut": whole[:-1],
        "changed": whole[:-1] + b"?",
        "no JSON": whole.replace(b"{", b"["),
    }
    path.write_bytes(changes.get(damage, damage))
    assert read_compiled(path) is None
    assert compiled(PROGRAM, "sm_90", nvrtc) == made and len(nvrtc.asked) == 2
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_and_one_warning(
    nvrtc, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path / "file/cache"))
    with caplog.at_level(logging.WARNING, logger="sg3flow"):
        for _ in range(2):
            assert compiled(PROGRAM, "sm_90", nvrtc).code.startswith(b"code")
    (record,) = caplog.records
    assert "each process compiles them again; make that folder writable" in record.message
    assert len(nvrtc.asked) == 2


def test_one_of_several_compiles_and_the_others_wait(nvrtc, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cuda_compile, "_QUIET_SEC", 0.05)
    compiled(PROGRAM, "sm_90", nvrtc)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    with ThreadPoolExecutor(1) as pool:
        with file_lock(path.with_name(f".{path.stem}.lock")):
            waiting = pool.submit(compiled, PROGRAM, "sm_90", nvrtc)
            said = ""  # a text may arrive in parts
            while "waiting for another process" not in said:
                assert not waiting.done()
                said += capfd.readouterr().err
            path.write_bytes(whole)
        assert waiting.result(timeout=20).code.startswith(b"code")
    assert len(nvrtc.asked) == 1


def test_waiting_ends_with_the_time_limit_of_a_build(nvrtc, tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_BUILD_SEC", "0.1")
    compiled(PROGRAM, "sm_90", nvrtc)
    (path,) = files(tmp_path)
    path.unlink()
    with file_lock(path.with_name(f".{path.stem}.lock")):
        compiled(PROGRAM, "sm_90", nvrtc)
    assert len(nvrtc.asked) == 2 and path.exists()


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [((8, 0), "sm_80"), ((8, 6), "compute_80"), ((9, 0), "sm_90"), ((12, 1), "compute_90")],
)
def test_a_gpu_that_nvrtc_does_not_know_gets_ptx(nvrtc, capability, wanted):
    assert target(capability, nvrtc) == wanted


def test_a_gpu_that_is_too_old_is_an_error(nvrtc):
    with pytest.raises(ConfigError, match=r"capability 7\.0.*need 7\.5.*SG3FLOW_OPS=torch"):
        target((7, 0), nvrtc)
