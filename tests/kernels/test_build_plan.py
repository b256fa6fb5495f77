"""The build plan of the CUDA library, without a GPU and without a CUDA torch."""

import platform
import shutil

import pytest

from sg3flow.errors import ConfigError
from sg3flow.kernels import build_plan
from sg3flow.kernels.build_plan import find_nvcc, make_build_plan


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Installs a fake nvcc that prints a release, or runs a script first, in a toolkit folder."""
    monkeypatch.setattr(build_plan, "_INSTALLED", str(tmp_path / "usr" / "cuda"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path' / 'bin'}:/usr/bin:/bin")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)

    def install(place, release="", script=""):
        home = tmp_path / place
        (home / "bin").mkdir(parents=True)
        nvcc = home / "bin" / "nvcc"
        answer = f"echo 'Cuda compilation tools, release {release}, V{release}.1'"
        nvcc.write_text(f"#!/bin/sh\n{script}\n{answer}\necho '#$ TOP={home}'\n")
        nvcc.chmod(0o755)
        return home

    return install


def test_the_toolkit_of_the_release_that_torch_was_built_for(toolkit, monkeypatch):
    toolkit("path", "13.0")
    usual, named = toolkit("usr/cuda-12.8", "12.8"), toolkit("named", "12.9")
    assert find_nvcc("12.8") == (usual / "bin/nvcc", (12, 8))
    assert find_nvcc(None)[1] == (13, 0)  # a torch without CUDA compiles with any
    monkeypatch.setenv("CUDA_HOME", str(named))
    assert find_nvcc("12.8") == (named / "bin/nvcc", (12, 9))


def test_a_toolkit_for_another_torch_is_an_error(toolkit):
    toolkit("path", "13.0")
    with pytest.raises(ConfigError, match=r"13\.0, this torch is for 12\.8; install .* 12\.8"):
        find_nvcc("12.8")


@pytest.mark.parametrize(
    ("release", "script", "message"),
    [
        ("11.8", "", r"is CUDA 11\.8; the kernels need 12\.6 or newer"),
        ("", "exit 1", "names no CUDA release"),
        ("12.8", "exec sleep 30", "does not answer"),
    ],
)
def test_a_toolkit_that_is_old_broken_or_hangs_is_an_error(
    toolkit, monkeypatch, release, script, message
):
    monkeypatch.setattr("sg3flow.kernels.build_plan._PROBE_SEC", 0.3)
    toolkit("path", release, script)
    with pytest.raises(ConfigError, match=f"{message}.*CUDA_HOME"):
        find_nvcc("12.8")


def test_no_toolkit_is_an_error(toolkit):
    with pytest.raises(ConfigError, match=r"no nvcc is on PATH.* install the CUDA toolkit 12\.8"):
        find_nvcc("12.8")


@pytest.fixture
def plan_for(toolkit, monkeypatch):
    """The build plan on a machine with a GPU of a capability and a toolkit of a release."""

    def make(capability, release, static=True):
        home = toolkit("path", release)
        if static:
            (home / "lib64").mkdir()
            (home / "lib64" / "libcudart_static.a").write_bytes(b"")
        monkeypatch.setattr(build_plan.torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(build_plan.torch.cuda, "get_device_capability", lambda i: capability)
        return make_build_plan("cuda")

    return make


@pytest.mark.parametrize(
    ("capability", "release", "code"),
    [
        ((9, 0), "12.8", "arch=compute_90,code=sm_90"),
        ((12, 0), "12.6", "arch=compute_90,code=compute_90"),  # newer than the toolkit: its driver
        ((10, 3), "13.0", "arch=compute_100,code=sm_100"),
    ],
)
def test_the_plan_fits_the_gpu_and_the_toolkit(plan_for, capability, release, code):
    plan = plan_for(capability, release)
    kernels = {name: command for name, command in plan.objects.items() if name != "binding"}
    assert len(kernels) == 6
    for command in kernels.values():
        assert [part for part in command if part.startswith("-gencode")] == [f"-gencode={code}"]
        assert f"-ccbin={shutil.which('c++')}" in command
        assert not any("Werror" in part for part in command)
    assert f"nvcc {release}" in plan.compilers
    assert "-lcudart_static" in plan.link


def test_a_gpu_that_is_too_old_is_an_error(plan_for):
    with pytest.raises(ConfigError, match=r"capability 7\.0.*SG3FLOW_OPS=torch"):
        plan_for((7, 0), "13.0")


def test_a_toolkit_without_the_static_runtime(plan_for):
    plan = plan_for((9, 0), "12.8", static=False)
    assert plan.link[-1] == "-lcudart" and "-lcudart_static" not in plan.link


def test_the_abi_is_that_of_torch():
    import torch

    wanted = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    plan = make_build_plan("cpu")
    assert all(wanted in command for command in plan.objects.values())
    assert ("-DSG3FLOW_X86" in plan.objects["binding"]) == (platform.machine() == "x86_64")
