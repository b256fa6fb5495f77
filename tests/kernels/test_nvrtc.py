"""NVRTC: where it is searched, and what the real one answers, from pip's package."""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sg3flow.errors import ConfigError
from sg3flow.kernels import nvrtc as binding
from sg3flow.kernels import nvrtc_search
from sg3flow.kernels.nvrtc import Nvrtc, find_nvrtc
from sg3flow.kernels.nvrtc_search import find_libraries, fitting_header_folders

HOPPER = ["--gpu-architecture=sm_90"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts empty files into an otherwise bare machine's packages, environment and toolkits."""
    monkeypatch.setattr(nvrtc_search, "_TOOLKITS", tmp_path / "local")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setattr(nvrtc_search, "_package_folders", lambda name: [tmp_path / "site" / name])
    for name in ("CUDA_HOME", "CUDA_PATH", "SG3FLOW_NVRTC"):
        monkeypatch.delenv(name, raising=False)

    def put(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return put


PIP12 = "site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
PIP13 = "site/nvidia/cu13/lib/libnvrtc.so.13"
CONDA = "env/lib/libnvrtc.so.12"
TOOLKIT = "local/cuda/lib64/libnvrtc.so.13"
SYSTEM = ["libnvrtc.so.13", "libnvrtc.so.12"]


def test_every_layout_is_found_and_the_release_of_torch_comes_first(installed, tmp_path):
    installed(PIP12, PIP13, CONDA, TOOLKIT, "site/nvidia/cu13/lib/libnvrtc-builtins.so.13.0")
    at = [str(tmp_path / name) for name in (PIP13, PIP12, CONDA, TOOLKIT)]
    assert find_libraries(None) == [*at, *SYSTEM]
    assert find_libraries(13) == [at[0], at[3], SYSTEM[0], at[1], at[2], SYSTEM[1]]
    assert find_libraries(12) == [at[1], at[2], SYSTEM[1], at[0], at[3], SYSTEM[0]]


def test_a_named_toolkit_comes_before_the_usual_one(installed, tmp_path, monkeypatch):
    installed(TOOLKIT, "named/lib64/libnvrtc.so.13")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "named"))
    assert find_libraries(13)[0] == str(tmp_path / "named/lib64/libnvrtc.so.13")


@pytest.mark.parametrize(
    ("library", "header"),
    [
        (PIP13, "site/nvidia/cu13/include/cuda_fp16.h"),
        (PIP12, "site/nvidia/cuda_runtime/include/cuda_fp16.h"),
        (CONDA, "env/targets/x86_64-linux/include/cuda_fp16.h"),
        (TOOLKIT, "local/cuda/include/cuda_fp16.h"),
    ],
)
def test_the_headers_of_every_layout(installed, tmp_path, library, header):
    installed(library, header)
    folders = fitting_header_folders(tmp_path / library)
    assert (tmp_path / header).parent in folders


def test_nothing_installed_says_what_to_install(installed, monkeypatch):
    monkeypatch.setattr(nvrtc_search, "_LIBRARY", "libnone.so")
    binding._found.cache_clear()
    with pytest.raises(
        ConfigError, match=r"not found; pip install nvidia-cuda-nvrtc nvidia-cuda-r"
    ):
        find_nvrtc()
    with pytest.raises(ConfigError, match=r"not found; pip install nvidia-cuda-nvrtc-cu12 "):
        find_nvrtc(12)


def test_a_file_that_does_not_load_is_named(installed, tmp_path, monkeypatch):
    find = binding.find_libraries
    installed(PIP13)
    binding._found.cache_clear()
    # By name alone the loader finds one that an earlier test has loaded.
    monkeypatch.setattr(
        binding, "find_libraries", lambda *known: [f for f in find(*known) if Path(f).is_absolute()]
    )
    with pytest.raises(ConfigError, match=r"libnvrtc\.so\.13 cannot be loaded .*SG3FLOW_NVRTC"):
        find_nvrtc(13)
    monkeypatch.setenv("SG3FLOW_NVRTC", str(tmp_path / "nothing.so"))
    with pytest.raises(ConfigError, match=r"NVRTC .*nothing\.so cannot be loaded"):
        find_nvrtc(13)


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    try:
        return find_nvrtc()
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_kernel_becomes_machine_code_or_ptx(nvrtc):
    assert {75, 80, 90} <= set(nvrtc.architectures())
    headers = {"number.h": "#pragma once\nconstexpr int NUMBER = 3;\n"}
    source = "template <int N> __global__ void fill(int* to) { *to = N + NUMBER; }\n"
    source = '#include "number.h"\n' + source
    made = nvrtc.compile(source, "fill.cu", headers, ["fill<4>", "fill<5>"], HOPPER)
    assert made.code.startswith(b"\x7fELF") and made.log == ""
    assert all(name.encode() in made.code for name in made.names.values())
    assert len(set(made.names.values())) == 2
    ptx = nvrtc.compile(source, "fill.cu", headers, ["fill<4>"], ["--gpu-architecture=compute_80"])
    assert b".target sm_80" in ptx.code and ptx.code.endswith(b"\0")


@pytest.mark.parametrize(
    ("source", "kernels", "options", "words"),
    [
        ("__global__ void k() { wrong(); }", ["k"], HOPPER, r"of\.cu\(1\): error: .*wrong"),
        ("#include <none.h>", [], HOPPER, r"error.*none\.h"),
        ("", [], ["--gpu-architecture=sm_12345"], "gpu-architecture"),
    ],
)
def test_what_does_not_compile_is_an_error_with_its_place(nvrtc, source, kernels, options, words):
    with pytest.raises(ConfigError, match=rf"NVRTC \d+\.\d+ cannot compile of\.cu: .*{words}"):
        nvrtc.compile(source, "of.cu", {}, kernels, options)


def test_headers_are_beside_it_or_elsewhere_or_an_error(nvrtc, tmp_path, monkeypatch):
    assert (nvrtc.headers_folder(tmp_path) / "cuda_fp16.h").is_file()
    monkeypatch.setattr(binding, "fitting_header_folders", lambda library: [])
    monkeypatch.setattr(Nvrtc, "_extract_headers", lambda self, folder: ", and it brings none")
    (tmp_path / "cuda_fp16.h").touch()
    monkeypatch.setattr(binding, "other_header_folders", lambda: [tmp_path])
    assert nvrtc.headers_folder(tmp_path / "own") == tmp_path
    monkeypatch.setattr(binding, "other_header_folders", list)
    with pytest.raises(ConfigError, match=r"cuda_fp16\.h.*brings none; pip install nvidia-cuda-nv"):
        nvrtc.headers_folder(tmp_path / "own")
    monkeypatch.setattr(Nvrtc, "_extract_headers", lambda self, folder: "")
    assert nvrtc.headers_folder(tmp_path / "own") == tmp_path / "own"


@pytest.mark.parametrize("code", [0, 5])
def test_newer_ones_bring_their_headers(nvrtc, tmp_path, monkeypatch, code):
    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_void_p)
    def install(folder, flags, words):
        (tmp_path / "asked").write_bytes(folder)
        return code

    library = SimpleNamespace(nvrtcGetErrorString=lambda code: b"NO ROOM")
    monkeypatch.setattr(nvrtc, "_library", library)
    assert nvrtc._extract_headers(tmp_path) == ", and it brings none"
    library.nvrtcInstallBundledHeaders = install
    said = nvrtc._extract_headers(tmp_path / "own")
    assert (tmp_path / "asked").read_text() == str(tmp_path / "own")
    assert ("NO ROOM" in said) is bool(code) and bool(said) is bool(code)


def test_it_needs_nothing_but_the_standard_library():
    """Together with the driver's binding: they are imported on machines that have little else."""
    for name in ("nvrtc", "nvrtc_search", "cuda_driver"):
        text = (Path(nvrtc_search.__file__).with_name(f"{name}.py")).read_text()
        imported = [
            line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))
        ]
        ours = {each for each in imported if each.startswith("sg3flow")}
        assert {each.split(".")[0] for each in imported} - {"sg3flow"} <= sys.stdlib_module_names
        assert ours <= {"sg3flow.errors", "sg3flow.settings", "sg3flow.kernels.nvrtc_search"}
