"""The device of a setting, copies to it, and how a CPU treats tiny numbers."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sg3flow import distributed
from sg3flow.config import DEVICES
from sg3flow.errors import ConfigError, cut
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
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}, not '{cut(name, 60)}'")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if problem := unusable_gpu():
            raise ConfigError(f"{problem}; {_ON_CPU}")
        if name == "auto":
            return torch.device("cpu")
        raise ConfigError(
            f"no CUDA device is visible to torch{visible_words()}; choose device cpu or auto"
        )
    index = distributed.local_rank()
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"{torch.cuda.device_count()} CUDA devices are visible{visible_words()}, too few for "
            f"process {index + 1} of this machine; start fewer, or choose device cpu"
        )
    _check_capability(index)
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def open_device(name: str) -> torch.device:
    """``pick_device``, and the first use of the GPU, which shows whether it can be used now.

    Call it where work begins, not to check settings: it takes some memory of the GPU, and the whole
    GPU if that is for one process only.

    Raises:
        ConfigError: see ``pick_device``; or the GPU is busy, has no free memory, or fails.
    """
    try:
        device = pick_device(name)  # to select any but the first GPU is to use it
        if device.type == "cuda":
            torch.zeros(1, device=device)
    except RuntimeError as error:
        raise ConfigError(_unready(str(error))) from None
    return device


_ADVICE = {
    "out of memory": "other programs have all of its memory",
    "busy or unavailable": "another program has it for itself, or it is in a mode for one program",
}


def _unready(text: str) -> str:
    """Why the first use of a GPU failed, and the next step."""
    reason = cut((text.strip().splitlines() or ["no message"])[0].rstrip("."), 200)
    cause = next((words for key, words in _ADVICE.items() if key in text.lower()), "")
    cause = cause or "it fails, or its driver does; restart the machine if others fail, too"
    name = torch.cuda.get_device_name(distributed.local_rank())
    return (
        f"the GPU {name} cannot be used now ({reason}): {cause}; "
        f"`nvidia-smi` shows what runs on it; CUDA_VISIBLE_DEVICES chooses another; {_ON_CPU}"
    )


def visible_words() -> str:
    """`` (CUDA_VISIBLE_DEVICES=0,7)`` if the variable is set, for errors about too few GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return ""
    slices = "; a process can use one MIG slice only" if "MIG-" in chosen else ""
    return f" (CUDA_VISIBLE_DEVICES={cut(chosen, 60)}{slices})"


def unlike_gpus(count: int) -> str:
    """How the first ``count`` GPUs differ, for a warning; empty: they are of one kind."""
    found = []
    for index in range(min(count, torch.cuda.device_count())):
        gpu = torch.cuda.get_device_properties(index)
        memory = gpu.total_memory / 2**30
        found.append(f"{gpu.name}, {memory:.0f} GiB, capability {gpu.major}.{gpu.minor}")
    if len(set(found)) < 2:
        return ""
    return (
        f"the GPUs differ ({'; '.join(found)}): all wait for the slowest, and the smallest decides "
        "the batch size; CUDA_VISIBLE_DEVICES chooses some of them"
    )


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


def _check_capability(index: int) -> None:
    """Check that this torch has code for the GPU."""
    found = [each for text in torch.cuda.get_arch_list() if (each := _CODE.fullmatch(text))]
    major, minor = torch.cuda.get_device_capability(index)
    if not found or any(_runs(code, major, minor) for code in found):
        return
    name, ours = torch.cuda.get_device_name(index), f"torch {torch.__version__}"
    oldest = min(int(code[2]) for code in found)
    needs = f"needs {oldest // 10}.{oldest % 10} at least; install an older torch"
    if 10 * major + minor > oldest:
        needs = "has no code for it; install a newer torch"
    raise ConfigError(
        f"the GPU {name} has compute capability {major}.{minor}, and {ours} {needs}; {_ON_CPU}"
    )


# Machine code, like sm_90, or portable code, like compute_120. The letter a is for one kind alone.
_CODE = re.compile(r"(sm|compute)_(\d+)([a-z]?)")


def _runs(code: re.Match[str], major: int, minor: int) -> bool:
    """Whether a GPU of this compute capability runs the code."""
    version = int(code[2])
    if code[3] == "a":
        return version == 10 * major + minor
    if code[1] == "compute":
        return version <= 10 * major + minor
    return version // 10 == major and version % 10 <= minor


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
