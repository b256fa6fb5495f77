"""The device of a setting, copies to it, and how a CPU treats tiny numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sg3flow import distributed
from sg3flow.config import DEVICES
from sg3flow.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The torch device of a setting; ``auto`` is the CUDA device if there is one, else the CPU.

    Each process that torchrun starts on a machine gets its own CUDA device.

    Raises:
        ConfigError: the name is unknown, or no CUDA device is visible for ``cuda``.
    """
    if name not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, not '{name[:60]}'")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("no CUDA device is visible to torch; choose device cpu or auto")
    index = distributed.local_rank()
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"{torch.cuda.device_count()} CUDA devices are visible, too few for process "
            f"{index + 1} of this machine; start fewer, or choose device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


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
