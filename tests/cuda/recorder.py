"""A driver and a device that record launches; tensors are those of the CPU."""

from contextlib import contextmanager, nullcontext

from sg3flow.kernels.cuda_driver import DriverError
from sg3flow.kernels.nvrtc import Compiled
from sg3flow.ops import (
    cuda_act_filter,
    cuda_bias_act,
    cuda_device,
    cuda_filtered_lrelu,
    cuda_launch,
    cuda_modulation,
    cuda_upfirdn2d,
)
from sg3flow.ops.cuda_checks import PreparedCalls


class Recorder:
    """A driver and a device."""

    def __init__(self):
        self.names, self.launches, self.loaded = [], [], 0
        self.code, self.is_held, self.failure = (9, 0), False, ""

    def cuda_major(self):
        return 13

    def capability(self, index):
        return self.code

    def guard(self, index):
        return nullcontext()

    def stream(self, index):
        return 7

    def is_capturing(self):
        return self.is_held

    def enter(self, device):
        pass

    def load_module(self, image):
        self.loaded += 1
        return 1

    def function(self, module, name):
        self.names.append(name)
        return len(self.names)

    def launch(self, function, blocks, threads, parameters, stream):
        if self.failure:
            raise DriverError(self.failure)
        assert stream == 7
        self.launches.append((self.names[function - 1], blocks, threads, parameters))

    def taken(self):
        """(kernel without namespace, blocks, threads, parameters) of the launches since then."""
        found, self.launches = self.launches, []
        return [(name.replace("sg3::", ""), *rest) for name, *rest in found]


@contextmanager
def installed(monkeypatch):
    """No kernel is compiled, loaded or prepared at first."""
    recorder = Recorder()
    monkeypatch.setattr(cuda_device, "access", recorder)
    monkeypatch.setattr(cuda_launch, "cuda_driver", lambda: recorder)
    monkeypatch.setattr(cuda_launch, "find_nvrtc", lambda major: None)
    monkeypatch.setattr(cuda_launch, "target", lambda capability, nvrtc: "sm_90")

    def compiled(program, architecture, nvrtc):
        return Compiled(b"", {kernel: kernel for kernel in program.kernels}, "")

    monkeypatch.setattr(cuda_launch, "compiled", compiled)
    monkeypatch.setattr(cuda_launch, "_loaded", {})
    for module in (
        *(cuda_act_filter, cuda_bias_act, cuda_filtered_lrelu, cuda_modulation),
        cuda_upfirdn2d,
    ):
        monkeypatch.setattr(module, "_calls", PreparedCalls())
    cuda_filtered_lrelu.use_tensor_cores.cache_clear()
    yield recorder
    cuda_filtered_lrelu.use_tensor_cores.cache_clear()
