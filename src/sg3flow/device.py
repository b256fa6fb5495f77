"""The device of a setting, copies to it, and how a CPU treats tiny numbers."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sg3flow import distributed
from sg3flow.config import DEVICES
from sg3flow.errors import ConfigError
from sg3flow.resources import gpu_problem


def pick_device(name: str) -> torch.device:
    """The torch device of a setting; ``auto`` is the CUDA device if there is one, else the CPU.

    Each process that torchrun starts on a machine gets its own CUDA device. A GPU that torch cannot
    use is an error also for ``auto``: a training on the CPU would take weeks.

    Raises:
        ConfigError: the name is unknown, torch cannot use the GPU of this machine, or no CUDA
            device is visible for ``cuda``.
    """
    if name not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, not '{name[:60]}'")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if problem := unusable_gpu():
            raise ConfigError(f"{problem}; {_ON_CPU}")
        if name == "auto":
            return torch.device("cpu")
        raise ConfigError("no CUDA device is visible to torch; choose device cpu or auto")
    index = distributed.local_rank()
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"{torch.cuda.device_count()} CUDA devices are visible, too few for process "
            f"{index + 1} of this machine; start fewer, or choose device cpu"
        )
    _check_age(index)
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


_ON_CPU = "device cpu (--device cpu, SG3FLOW_DEVICE=cpu for serving) goes on without the GPU"


def unusable_gpu() -> str:
    """Why a torch that sees no GPU cannot use that of this machine; empty: there is none."""
    return gpu_problem(torch.__version__, torch.version.cuda, _reason)


def _reason() -> str:
    """What torch says about the failure."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:200].rstrip(".")
    return "it sees no device"


def _check_age(index: int) -> None:
    """Check that torch has code for a GPU as old as this one."""
    found = (_ARCHITECTURE.fullmatch(each) for each in torch.cuda.get_arch_list())
    oldest = min((int(each[1]) for each in found if each), default=0)
    major, minor = torch.cuda.get_device_capability(index)
    if 10 * major + minor < oldest:
        raise ConfigError(
            f"the GPU {torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, "
            f"and torch {torch.__version__} needs {oldest // 10}.{oldest % 10} at least; install "
            f"an older torch; {_ON_CPU}"
        )


_ARCHITECTURE = re.compile(r"(?:sm|compute)_(\d+)[a-z]?")


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to ``device`` without waiting for work in progress there.

    Such asynchronous copies to a GPU need pinned memory.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormals (numbers below 1e-38) to 0 on the CPU while the block runs.

    Otherwise a step with gradients that small takes 10 to 20 times as long. Threads inherit the
    setting when they start: enter the block before the first large operation.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
