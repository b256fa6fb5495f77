"""Says which implementation of the ops runs on this machine, and why."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sg3flow.errors import ConfigError
from sg3flow.kernels.build import RECORD, make_build
from sg3flow.kernels.loader import load_kernels
from sg3flow.ops import filtered_lrelu

_TOLERANCE = 1e-5
_OPTIONS = {"up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 0.7}


def examine(rebuild: bool = False) -> Iterator[str]:
    """Lines about this machine, each kind of device, and whether its kernels compute rightly.

    Args:
        rebuild: build the kernels anew first, whatever came of it before.

    Raises:
        ConfigError: the kernels of a device cannot be rebuilt, or compute something else than
            plain PyTorch does.
    """
    setting = os.environ.get("SG3FLOW_OPS", "auto")
    capability = torch.backends.cpu.get_cpu_capability()
    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU {capability}"
    yield f"SG3FLOW_OPS={setting}"
    yield from _examine_device("cpu", rebuild)
    if torch.cuda.is_available():
        yield from _examine_device("cuda", rebuild)
    else:
        yield "cuda: no GPU is visible to this torch"


def _examine_device(name: str, rebuild: bool) -> Iterator[str]:
    if rebuild:
        make_build(name, anew=True)
    try:
        library = load_kernels(name)
    except ConfigError as error:
        yield f"{name}: plain PyTorch, because {error}"
        return
    yield f"{name}: compiled kernels{_details(name, library)}"
    yield f"  {library}"
    error_size = _largest_error(name)
    if not error_size <= _TOLERANCE:
        raise ConfigError(
            f"the {name} kernels differ from plain PyTorch by {error_size:.1e} of the largest "
            "value; set SG3FLOW_OPS=torch and report this machine and compiler"
        )
    yield f"  differ from plain PyTorch by {error_size:.0e} of the largest value: rounding"


def _details(name: str, library: Path) -> str:
    record = json.loads((library.parent / RECORD).read_text(encoding="utf-8"))
    isa = f" for {torch.ops.sg3flow.cpu_instruction_set()}" if name == "cpu" else ""
    return f"{isa}, built in {record['seconds']:.0f} s by {', '.join(record['compilers'])}"


def _largest_error(device: str) -> float:
    """Of a small filtered_lrelu and its gradient; numbers of 64 bits go through plain PyTorch."""
    x = torch.randn(2, 8, 24, 20, generator=torch.Generator().manual_seed(0)).to(device)
    expected, found = _results(x.double(), filtered_lrelu), _results(x, _through_kernels)
    return max(
        float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True)
    )


def _results(x: torch.Tensor, op: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    taps = torch.hann_window(14, periodic=False, device=x.device)[1:-1]
    x.requires_grad_()
    y = op(x, taps / taps.sum(), taps / taps.sum(), **_OPTIONS)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach(), dx


def _through_kernels(
    x: torch.Tensor, fu: torch.Tensor, fd: torch.Tensor, up: int, down: int, **rest: Any
) -> torch.Tensor:
    y: torch.Tensor
    y, _ = torch.ops.sg3flow.filtered_lrelu(
        x, fu, fd, None, (up, up), (down, down), rest["padding"], False, 2**0.5, 0.2, 0.7, True
    )
    return y
