"""What goes wrong with drivers, caches and GPUs, on stand-ins: one line each, and a way out."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in
import torch

from sg3flow.errors import ConfigError
from sg3flow.kernels import cuda_compile
from sg3flow.ops import backend, backend_name, bias_act, cuda_device

GPU = torch.device("cuda", 0)
OUT_OF_MEMORY, INVALID_IMAGE, OLD_PTX, NOT_FOUND, TOO_MANY = 2, 200, 222, 500, 701


def ones(device="cuda", dtype=torch.float32):
    return torch.ones(2, 3, 8, 8, device=device, dtype=dtype)


@pytest.fixture
def no_self_check(monkeypatch):
    """The driver of these tests computes nothing."""
    monkeypatch.setattr(backend, "check_part", lambda *arguments: None)


@pytest.fixture
def new_process():
    """Forgets what a process keeps."""

    def forget():
        stand_in.forget()
        cuda_compile._say_not_kept.cache_clear()

    forget()
    return forget


@pytest.fixture
def compilations(tmp_path, monkeypatch):
    """(process, source, architecture) of what NVRTC compiled."""
    log = tmp_path / "compilations"
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    return lambda: [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def one_line(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return text


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "CUDA_ERROR_INVALID_VALUE: invalid argument"),
        (OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        (TOO_MANY, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested for launch"),
        (4321, "error 4321 of the CUDA driver"),
    ],
)
def test_a_launch_that_fails_is_one_line_and_the_next_one_runs(gpu, no_self_check, code, words):
    bias_act(ones(), act="lrelu")
    gpu.fail("cuLaunchKernel", code)
    with pytest.raises(RuntimeError) as error:
        bias_act(ones(), act="lrelu")
    assert one_line(error) == (
        f"bias_act: the CUDA kernel could not run: {words} "
        "(SG3FLOW_OPS=torch runs without compiled kernels)"
    )
    bias_act(ones(), act="lrelu")


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("cuModuleLoadData", OLD_PTX, "compiled with an unsupported toolchain"),
        ("cuModuleLoadData", INVALID_IMAGE, "device kernel image is invalid"),
        ("cuModuleLoadData", OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        ("cuModuleGetFunction", NOT_FOUND, "named symbol not found"),
        ("cuFuncGetAttribute", OUT_OF_MEMORY, "out of memory"),
    ],
)
def test_code_that_the_driver_does_not_load(gpu, no_self_check, function, code, words):
    gpu.fail(function, code)
    with pytest.raises(ConfigError) as error:
        bias_act(ones(), act="lrelu")
    found = one_line(error)
    assert "the driver does not load the CUDA kernels bias_act-float32 for sm_90" in found
    assert f"{function}: CUDA_ERROR_" in found and words in found
    assert "update it, or set SG3FLOW_OPS=torch" in found


def test_no_driver(gpu, monkeypatch, tmp_path):
    monkeypatch.setenv("SG3FLOW_CUDA_DRIVER", str(tmp_path / "none.so"))
    with pytest.raises(ConfigError) as error:
        backend_name(GPU)
    found = one_line(error)
    assert "install NVIDIA's driver, or correct SG3FLOW_CUDA_DRIVER" in found


def test_a_library_that_is_no_driver(gpu, monkeypatch):
    monkeypatch.setenv("SG3FLOW_CUDA_DRIVER", "libm.so.6")
    with pytest.raises(ConfigError, match=r"the CUDA driver libm\.so\.6 cannot be loaded.*cuGet"):
        backend_name(GPU)


def test_a_compiler_that_fails(gpu):
    gpu.fail("nvrtcCompileProgram", 6)
    with pytest.raises(ConfigError) as error:
        backend_name(GPU)
    assert "NVRTC 13.0 cannot compile bias_act.cu: bias_act.cu(7): error: told" in one_line(error)


def test_plain_pytorch_serves_where_a_fault_leaves_no_kernels(gpu, monkeypatch, caplog):
    """By default, with one warning."""
    monkeypatch.setenv("SG3FLOW_OPS", "auto")
    gpu.fail("cuModuleLoadData", OUT_OF_MEMORY)
    with caplog.at_level(logging.WARNING, logger="sg3flow"):
        found = [bias_act(ones() - 2, act="lrelu", gain=1).cpu() for _ in range(2)]
    assert all(torch.equal(each, torch.full((2, 3, 8, 8), -0.2)) for each in found)
    (record,) = caplog.records
    assert "several times slower" in record.message and "out of memory" in record.message
    assert gpu.launches() == []


def test_two_kinds_of_gpus_get_their_own_code(gpu, no_self_check, compilations):
    for index in (0, 1, 0):
        bias_act(ones(f"cuda:{index}"), act="lrelu")
    assert [launch.device for launch in gpu.launches()] == [0, 1, 0]
    assert [rest for _, *rest in compilations()] == [
        ["bias_act.cu", "sm_90"],
        ["bias_act.cu", "sm_80"],
    ]


def test_two_alike_gpus_or_slices_of_one_share_their_code(gpu, no_self_check, compilations):
    """Two MIG slices are two devices of one compute capability."""
    gpu.reset([90, 90])
    for index in (0, 1):
        bias_act(ones(f"cuda:{index}"), act="lrelu")
    assert [launch.device for launch in gpu.launches()] == [0, 1] and len(compilations()) == 1


def test_a_gpu_that_nvrtc_does_not_know_runs_ptx(gpu, no_self_check, compilations):
    gpu.reset([130])
    bias_act(ones(), act="lrelu")
    assert len(gpu.launches()) == 1 and compilations()[0][2] == "compute_121"


def test_a_damaged_file_of_the_cache_is_made_again(
    gpu, no_self_check, compilations, tmp_path, new_process
):
    bias_act(ones(), act="lrelu")
    (file,) = (tmp_path / "kernels").glob("*.bin")
    whole = file.read_bytes()
    new_process()
    bias_act(ones(), act="lrelu")
    assert len(compilations()) == 1  # from the cache
    file.write_bytes(whole[:-3] + b"???")
    new_process()
    bias_act(ones(), act="lrelu")
    assert len(compilations()) == 2 and file.read_bytes() == whole and len(gpu.launches()) == 3


def test_a_cache_that_cannot_be_written(
    gpu, no_self_check, monkeypatch, tmp_path, caplog, new_process
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path / "file/kernels"))
    with caplog.at_level(logging.WARNING, logger="sg3flow"):
        bias_act(ones(), act="lrelu")
        bias_act(ones(dtype=torch.float16), act="lrelu")
    (record,) = caplog.records
    assert "cannot be kept in" in record.message and "SG3FLOW_KERNELS" in record.message
    assert len(gpu.launches()) == 2


def test_a_graph_is_captured_after_a_warm_up_only(gpu, no_self_check):
    access = cuda_device.access
    access.capturing = True
    gpu.set_capturing(True)
    with pytest.raises(RuntimeError, match="warm-up"):
        bias_act(ones(), act="lrelu")
    access.capturing = False
    gpu.set_capturing(False)
    bias_act(ones(), act="lrelu")
    access.capturing = True
    gpu.set_capturing(True)
    bias_act(ones(), act="lrelu", gain=2)
    assert len(gpu.launches()) == 2


PROGRAM = """
import sys
from sg3flow.kernels.cuda_compile import Program, compiled
from sg3flow.kernels.nvrtc import find_nvrtc
program = Program("some", "upfirdn2d.cu", ("sg3::upfirdn_kernel<float>",))
sys.stdin.read(1)
made = compiled(program, "sm_90", find_nvrtc())
print(made.names["sg3::upfirdn_kernel<float>"], len(made.code))
"""


@pytest.mark.medium
def test_several_processes_compile_once(gpu, compilations, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_COMPILE_MS", "300")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120) for process in processes]
    assert {process.returncode for process in processes} == {0}, answers
    assert len({out for out, _ in answers}) == 1 and answers[0][0].startswith("sg3::upfirdn")
    assert len(compilations()) == 1
    assert sum("compiling CUDA kernels: some for sm_90" in err for _, err in answers) == 1
    assert len(list(Path(tmp_path / "kernels").glob("*.bin"))) == 1
