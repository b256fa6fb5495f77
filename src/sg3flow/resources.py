"""What this process may take of its machine: containers and batch systems give less than it has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sg3flow import distributed
from sg3flow.config import DEVICES
from sg3flow.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that may still be taken: of the machine, or of the container that this runs in."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_limit()
    return free if limit is None else max(min(free, limit - _container_used()), 0)


def total_memory() -> int:
    """Bytes there are in all: of the machine, or of the container."""
    import psutil

    total = int(psutil.virtual_memory().total)
    return min(total, _container_limit() or total)


def _container_limit() -> int | None:
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return None


def _container_used() -> int:
    """Bytes that cannot be had back: files that were read long ago are dropped when need be."""
    try:
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return used - int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0


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
    index = distributed.local_rank()
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
