"""What `sg3flow doctor` says about the kernels of GPUs, without one."""

import pytest
import torch
from typer.testing import CliRunner

from sg3flow.cli import status
from sg3flow.cli.commands import app
from sg3flow.errors import ConfigError
from sg3flow.ops import backend, backend_name


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs whose kernels are checked by a table: part -> error."""
    problems, checked = {}, []

    def check(device, part, dtype):
        checked.append((device.index, part, dtype))
        if part in problems:
            raise ConfigError(problems[part])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(status, "open_device", lambda name: torch.device(name, 0))
    monkeypatch.setattr(status, "unlike_gpus", lambda count: f"{count} are compared")
    monkeypatch.setattr(status, "load_cuda_kernels", lambda: "NVRTC 13.0, /somewhere/libnvrtc.so")
    monkeypatch.setattr(status, "check_part", check)
    monkeypatch.setattr(status, "largest_error", lambda device, part, dtype: 2e-7)
    monkeypatch.setattr(status, "_examine_cpu", lambda: ["cpu: ..."])
    monkeypatch.setenv("SG3FLOW_OPS", "auto")
    return problems, checked


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SG3FLOW_OPS", "cdua", "(did you mean 'cuda'?); it must be one of auto, torch, cpu, cuda"),
        ("SG3FLOW_OPS", "", "SG3FLOW_OPS is ''; it must be one of auto, torch, cpu, cuda"),
        ("SG3FLOW_TENSOR_CORES", "off", "'off'; it must be one of 0, 1"),
        ("SG3FLOW_TENSOR_CORES", "x" * 5000, "'; it must be one of 0, 1"),
    ],
)
def test_unknown_values_are_errors_of_one_line(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and f"error: {name} is '" in done.stderr and message in done.stderr
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 200
    backend._chosen.cache_clear()
    with pytest.raises(ConfigError, match="it must be one of"):
        backend_name("cuda")
    backend._chosen.cache_clear()


def test_every_part_is_checked_in_every_dtype_on_every_gpu(gpus, tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path))
    said = list(status.examine())
    assert "cuda: compiled kernels by NVRTC 13.0, /somewhere/libnvrtc.so" in said
    assert f"  {tmp_path}" in said and "  Card 1, largest difference from float64:" in said
    (line,) = {line for line in said if line.startswith("    float16: ")}
    assert "2e-07 (bias_act), " in line and line.endswith("(filtered_lrelu-generic)")
    assert len(set(gpus[1])) == 2 * 3 * len(status.CUDA_PARTS)
    assert said[-1] == "  2 are compared"


def test_a_gpu_that_cannot_be_used_now_is_said_and_not_examined(gpus, monkeypatch):
    def fails(name):
        raise ConfigError("the GPU A100 cannot be used now")

    monkeypatch.setattr(status, "open_device", fails)
    assert list(status.examine())[-1] == "cuda: the GPU A100 cannot be used now"
    assert gpus[1] == []


def test_what_fails_is_said_with_what_runs_instead(gpus, monkeypatch):
    gpus[0]["upfirdn2d"] = "they differ"
    assert "cuda: pure PyTorch, because they differ" in list(status.examine())
    monkeypatch.setenv("SG3FLOW_OPS", "cuda")
    assert "cuda: every op fails, because they differ" in list(status.examine())


def test_a_rebuild_compiles_again(gpus, tmp_path, monkeypatch):
    monkeypatch.setenv("SG3FLOW_KERNELS", str(tmp_path))
    monkeypatch.setattr(status, "make_build", lambda clean: None)
    old = tmp_path / "cuda-some-sm_90-0.bin"
    old.touch()
    assert list(status.examine(rebuild=True)) and not old.exists()
