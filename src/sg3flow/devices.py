"""Which device computes, and how."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sg3flow import processes
from sg3flow.config import DEVICES
from sg3flow.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """``auto``: the CUDA device if there is one, else the CPU; ``cpu`` or ``cuda``: that one.

    Of several processes that torchrun started on a machine, each gets a device of its own.

    Raises:
        ConfigError: another name, or ``cuda`` is asked for and there is none.
    """
    if name not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, not '{name[:60]}'")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("no CUDA device is visible to torch; choose device cpu or auto")
    index = processes.local_rank()
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"{torch.cuda.device_count()} CUDA devices are visible, too few for process "
            f"{index + 1} of this machine; start fewer, or choose device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on ``device``, without waiting for what that device is doing.

    To a GPU only memory that the system cannot move is copied that way.
    """
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let numbers below 1e-38 count as 0 on the CPU while the block runs.

    A step whose gradients fall that low took 10 to 20 times as long otherwise. Threads take the
    setting over from the one that starts them: enter the block before the first heavy operation.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
