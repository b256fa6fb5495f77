import stat

import pytest

from sg3flow.errors import ConfigError
from sg3flow.kernels import build_plan


def test_files_are_there_and_kernels_know_no_torch():
    files = [path for path in build_plan.kernel_files("cuda") if path.suffix != ".py"]
    names = {path.name for path in files}
    assert {"binding.cpp", "launch.h", "filtered_lrelu.cu"} <= names
    for path in files:
        if path != build_plan.binding_file():
            includes = [line for line in path.read_text().splitlines() if "#include" in line]
            assert not [line for line in includes if "torch" in line or "ATen" in line], path.name


def test_architectures_by_toolkit():
    assert (12, 0) not in build_plan.known_architectures((12, 6))
    options = build_plan.architecture_options((13, 0))
    assert "-gencode=arch=compute_75,code=sm_75" in options
    assert options[-1] == "-gencode=arch=compute_120,code=compute_120"


@pytest.mark.parametrize(
    ("capability", "toolkit", "option"),
    [
        ((9, 0), (13, 0), "-gencode=arch=compute_90,code=sm_90"),
        ((8, 7), (13, 0), "-gencode=arch=compute_86,code=sm_86"),
        ((10, 3), (13, 0), "-gencode=arch=compute_100,code=sm_100"),
        ((12, 1), (12, 6), "-gencode=arch=compute_90,code=compute_90"),
        ((13, 0), (13, 0), "-gencode=arch=compute_120,code=compute_120"),
    ],
)
def test_the_code_for_a_gpu(capability, toolkit, option):
    assert build_plan.architecture_options(toolkit, [capability]) == [option]


def test_two_alike_gpus_need_one_compilation():
    assert len(build_plan.architecture_options((13, 0), [(9, 0), (9, 0)])) == 1


def test_a_gpu_too_old_is_an_error():
    with pytest.raises(ConfigError, match=r"7\.0.*SG3FLOW_OPS=torch"):
        build_plan.architecture_options((13, 0), [(7, 0)])


@pytest.fixture
def fake_nvcc(tmp_path):
    def write(text):
        nvcc = tmp_path / "nvcc"
        nvcc.write_text(f"#!/bin/sh\n{text}\n")
        nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
        return nvcc

    return write


def test_the_toolkit_tells_its_version(fake_nvcc, tmp_path):
    nvcc = fake_nvcc("echo 'Cuda compilation tools, release 12.6, V12.6.20'")
    assert build_plan.toolkit_version(nvcc) == (12, 6)
    nvcc = fake_nvcc(f"echo '#$ TOP={tmp_path}/bin/..' >&2")
    assert build_plan.toolkit_folder(nvcc) == (tmp_path / "bin/..").resolve()


@pytest.mark.parametrize(
    ("script", "part"),
    [("echo 'release 11.8,'", r"11\.8.*12\.6 or newer"), ("echo broken", "names no CUDA release")],
)
def test_a_toolkit_that_does_not_work_is_an_error(fake_nvcc, script, part):
    with pytest.raises(ConfigError, match=part):
        build_plan.toolkit_version(fake_nvcc(script))


def test_no_nvcc_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="does not run"):
        build_plan.toolkit_version(tmp_path / "nvcc")
