import logging
from types import SimpleNamespace

import pytest
import torch

from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.ops import backend, backend_name, self_check
from sg3flow.ops.cuda_tiles import filter_family


@pytest.fixture(autouse=True)
def fresh():
    """Clears the cached choice before and after each test."""
    backend._chosen.cache_clear()
    backend._checked_part.cache_clear()
    yield
    backend._chosen.cache_clear()
    backend._checked_part.cache_clear()


def test_plain_pytorch_serves_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("SG3FLOW_OPS", "torch")
    with caplog.at_level(logging.INFO, logger="sg3flow"):
        assert backend_name("cpu") == "torch"
        assert backend_name(torch.device("cpu")) == "torch"
    assert [r.message for r in caplog.records] == ["ops on cpu: plain PyTorch"]


def test_kernels_of_another_device_do_not_serve(monkeypatch):
    monkeypatch.setenv("SG3FLOW_OPS", "cuda")
    assert backend_name("cpu") == "torch"
    assert backend_name("meta") == "torch"


def test_an_unknown_choice_is_worded(monkeypatch):
    monkeypatch.setenv("SG3FLOW_OPS", "torhc")
    with pytest.raises(ConfigError, match="did you mean 'torch'"):
        backend_name("cpu")


GPU = torch.device("cuda", 0)


def half(index=0):
    """What `has_kernels` looks at, of a tensor on a GPU."""
    return SimpleNamespace(device=torch.device("cuda", index), dtype=torch.float16)


@pytest.fixture
def checks(monkeypatch):
    """The checks that ran; those of a part in `broken` fail."""
    ran, broken, capturing = [], {}, {"now": False}

    def check(device, part, dtype):
        ran.append((device, part, dtype))
        if part in broken:
            raise ConfigError(broken[part])

    monkeypatch.setattr(backend, "check_part", check)
    monkeypatch.setattr(
        "sg3flow.ops.cuda_device.access",
        SimpleNamespace(current=lambda: 0, is_capturing=lambda: capturing["now"]),
    )
    monkeypatch.setattr("sg3flow.ops.cuda_launch.cuda_compiler", lambda: "NVRTC 13.0")
    monkeypatch.setenv("SG3FLOW_OPS", "auto")
    return SimpleNamespace(ran=ran, broken=broken, capturing=capturing)


def test_a_gpu_is_served_after_a_small_check_and_each_part_after_its_own(checks, caplog):
    with caplog.at_level(logging.INFO, logger="sg3flow"):
        assert backend_name("cuda") == "cuda"
    assert [record.message for record in caplog.records] == [
        "ops on cuda: compiled kernels, NVRTC 13.0"
    ]
    assert checks.ran == [(GPU, "bias_act", torch.float32)]
    for _ in range(2):
        assert backend.has_kernels(half(), "filtered_lrelu-radial")
    assert backend.has_kernels(half(1), "filtered_lrelu-radial")  # perhaps another kind of GPU
    assert backend.has_kernels(half())
    assert checks.ran[1:] == [
        (GPU, "filtered_lrelu-radial", torch.float16),
        (torch.device("cuda", 1), "filtered_lrelu-radial", torch.float16),
    ]
    double = SimpleNamespace(device=GPU, dtype=torch.float64)
    assert not backend.has_kernels(double, "upfirdn2d") and len(checks.ran) == 3


def test_no_part_is_checked_while_a_graph_is_captured(checks):
    assert backend.has_kernels(half(), "upfirdn2d")
    checks.capturing["now"] = True
    assert backend.has_kernels(half(), "upfirdn2d")
    with pytest.raises(RuntimeError, match=r"captured \(those of bias_act in .* warm-up"):
        backend.has_kernels(half(), "bias_act")
    checks.capturing["now"] = False
    assert backend.has_kernels(half(), "bias_act")


def test_without_a_compiler_plain_pytorch_serves_with_one_warning(checks, caplog):
    checks.broken["bias_act"] = "NVRTC was not found; pip install it"
    for _ in range(2):
        assert backend_name("cuda") == "torch"
        assert not backend.has_kernels(half(), "upfirdn2d")
    (record,) = caplog.records
    assert "NVRTC was not found; pip install it (SG3FLOW_OPS=torch selects" in record.message


def test_a_part_that_fails_is_left_to_plain_pytorch_with_one_warning(checks, caplog):
    checks.broken["filtered_lrelu-separable"] = "they differ"
    for _ in range(2):
        assert not backend.has_kernels(half(), "filtered_lrelu-separable")
        assert backend.has_kernels(half(), "upfirdn2d")
    (record,) = caplog.records
    assert "on cuda for filtered_lrelu-separable" in record.message


@pytest.mark.parametrize("part", ["bias_act", "upfirdn2d"])
def test_kernels_that_are_asked_for_and_fail_are_an_error(checks, monkeypatch, part):
    monkeypatch.setenv("SG3FLOW_OPS", "cuda")
    checks.broken[part] = "it does not compile"
    for _ in range(2):
        with pytest.raises(ConfigError, match="SG3FLOW_OPS=cuda: it does not compile"):
            backend.has_kernels(half(), part)


def test_a_check_that_breaks_the_device_ends_the_process(monkeypatch):
    def crash(*_):
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(self_check, "largest_error", crash)
    with pytest.raises(
        ConfigError, match=r"do not run here: CUDA error: an illegal memory access$"
    ):
        self_check.check_part("cpu", "bias_act", torch.float32)
    monkeypatch.setattr(self_check, "_is_alive", lambda device: False)
    with pytest.raises(Sg3flowError, match="broke the device for this process") as error:
        self_check.check_part("cpu", "bias_act", torch.float32)
    assert not isinstance(error.value, ConfigError)  # plain PyTorch would fail, too


@pytest.mark.medium  # loads torch's compiler
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_the_choice_is_a_constant_of_a_compiled_graph(monkeypatch):
    asked = []

    def checked(part, dtype, index, wanted):
        asked.append((part, dtype, index))
        return part.endswith("separable")

    monkeypatch.setattr(backend, "_checked_part", checked)

    def op(x, f):
        family = filter_family((2, 2), tuple(f.shape), (2, 2), tuple(f.shape))
        return x * 2 if backend._has_part(f"part-{family}", x.dtype, 0) else x * 3

    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    x = torch.ones(2)
    for taps, factor in ((12, 2), (5, 3), (7, 3)):
        assert torch.equal(compiled(x, torch.ones(taps)), x * factor)
    assert asked[:2] == [
        ("part-separable", torch.float32, 0),
        ("part-generic", torch.float32, 0),
    ]
