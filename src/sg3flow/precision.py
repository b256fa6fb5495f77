"""How float32 is computed on a GPU: TF32, and cuDNN's choice of algorithms.

Both are settings of the whole process, and torch turns TF32 on for convolutions. This is the only
place that changes them: a block states what it needs, and what held before returns at its end. On a
CPU they change nothing.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_OVERRIDE = "NVIDIA_TF32_OVERRIDE"  # of NVIDIA's libraries; it goes before what torch asks for


@dataclass(frozen=True)
class Precision:
    """How float32 layers are computed on a GPU.

    Attributes:
        tf32: round the inputs of convolutions and matrix products to 10 bits, which tensor cores
            multiply faster.
        cudnn_benchmark: let cuDNN time its algorithms for each new shape and use the fastest. Two
            runs may then use different ones, whose results differ in the last bits.
    """

    tf32: bool = False
    cudnn_benchmark: bool = False

    def words(self) -> str:
        """For people: ``exact float32``, with what was added to it."""
        name = "TF32 in float32 layers" if self.tf32 else "exact float32"
        return f"{name}, cuDNN benchmark" if self.cudnn_benchmark else name


EXACT = Precision()


class _Use:
    """One running block of `computing`."""

    def __init__(self, flags: tuple[Any, ...]) -> None:
        self.flags = flags


_uses: list[_Use] = []  # the innermost last; threads may use it at once, as those of a server
_outside: tuple[Any, ...] = ()
_lock = threading.Lock()


@contextmanager
def computing(precision: Precision = EXACT) -> Iterator[None]:
    """Compute float32 with this precision in the block, in all threads of the process.

    Blocks may be nested: the innermost counts. When the last one ends, torch has the settings that
    it had before the first.
    """
    global _outside
    use = _Use(_flags_of(precision))
    with _lock:
        if not _uses:
            _outside = _flags()
        _uses.append(use)
        _set_flags(use.flags)
    try:
        yield
    finally:
        with _lock:
            _uses.remove(use)
            _set_flags(_uses[-1].flags if _uses else _outside)


def current() -> Precision:
    """The precision in force now."""
    matmul, conv, benchmark = _flags()
    return Precision("tf32" in (matmul, conv), benchmark)


def override() -> str:
    """What the environment does to TF32, whatever is asked for; empty: nothing."""
    value = os.environ.get(_OVERRIDE)
    if value is None:
        return ""
    return f"{_OVERRIDE}={value[:20]} {'forbids' if value == '0' else 'decides'} TF32"


def _flags_of(precision: Precision) -> tuple[Any, ...]:
    name = "tf32" if precision.tf32 else "ieee"
    return name, name, precision.cudnn_benchmark


# torch since 2.9 has a name per kind of operation. Its older flags (allow_tf32) must not be mixed
# with them: reading one then raises an error. A name "none" is that of the level above.
def _flags() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn  # its members are missing from torch's own types
    return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark


def _set_flags(flags: tuple[Any, ...]) -> None:
    cudnn: Any = torch.backends.cudnn
    torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark = flags
