"""Says which implementation of the ops runs on this machine, and why."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from sg3flow.errors import ConfigError
from sg3flow.kernels.build import RECORD, make_build
from sg3flow.kernels.loader import load_kernels
from sg3flow.kernels.recipes import find_nvcc
from sg3flow.kernels.trial import largest_error
from sg3flow.ops.backend import backend_name


def examine(rebuild: bool = False) -> Iterator[str]:
    """Lines about this machine, each kind of device, and whether its kernels compute rightly.

    Args:
        rebuild: build the kernels anew first, whatever came of it before.

    Raises:
        ConfigError: the kernels of a device cannot be rebuilt.
    """
    setting = os.environ.get("SG3FLOW_OPS", "auto")
    capability = torch.backends.cpu.get_cpu_capability()
    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU {capability}"
    yield f"SG3FLOW_OPS={setting}"
    yield from _examine_device("cpu", rebuild)
    if torch.cuda.is_available():
        yield from _examine_device("cuda", rebuild)
    else:
        yield f"cuda: no GPU is visible to this torch ({_cuda_of_torch()})"
        yield f"  {_toolkit()}"


def _examine_device(name: str, rebuild: bool) -> Iterator[str]:
    if rebuild:
        make_build(name, anew=True)
    setting = os.environ.get("SG3FLOW_OPS", "auto")
    try:
        if setting not in ("auto", name):
            backend_name(name)  # an unknown setting is an error
            yield f"{name}: plain PyTorch, because SG3FLOW_OPS={setting}"
            return
        library = load_kernels(name)
    except ConfigError as error:
        outcome = "plain PyTorch" if setting == "auto" else "every op is an error"
        yield f"{name}: {outcome}, because {error}"
        return
    yield f"{name}: compiled kernels{_details(name, library)}"
    yield f"  {library}"
    size = largest_error(name, torch.float32)
    yield f"  differ from plain PyTorch by {size:.0e}: rounding"


def _details(name: str, library: Path) -> str:
    record = json.loads((library.parent / RECORD).read_text(encoding="utf-8"))
    isa = f" for {torch.ops.sg3flow.cpu_instruction_set()}" if name == "cpu" else ""
    return f"{isa}, built in {record['seconds']:.0f} s by {', '.join(record['compilers'])}"


def _cuda_of_torch() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"


def _toolkit() -> str:
    """What the kernels of a GPU would be built with."""
    try:
        nvcc, (major, minor) = find_nvcc(torch.version.cuda)
    except ConfigError as error:
        return f"on a GPU plain PyTorch would compute, because {error}"
    return f"kernels for a GPU could be built: {nvcc} is CUDA {major}.{minor}"
