"""Checks of the tensors and numbers that the CUDA ops get: kernels read memory without asking.

Messages begin with the name of the op, `name`. All errors are RuntimeErrors, as those of torch.
Calls that were checked once are kept, for calls of the same shapes and numbers.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import torch

from sg3flow.ops.cuda_structs import TYPE_CODES, Filter

_MOST = 1 << 30
_MOST_RATE = 4096
_MOST_CALLS = 4096  # random paddings of augmentation make new ones for ever

Call = TypeVar("Call")


def type_code(name: str, x: torch.Tensor) -> int:
    """The code of a tensor's dtype."""
    if x.dtype not in TYPE_CODES:
        raise RuntimeError(
            f"{name}: float16, bfloat16, float32 or float64 is needed, not {x.dtype}"
        )
    return TYPE_CODES[x.dtype]


def check_images(name: str, x: torch.Tensor) -> None:
    """Contiguous [N, C, H, W] is needed."""
    if x.ndim != 4:
        raise RuntimeError(f"{name}: images must be [N, C, H, W], not {list(x.shape)}")
    if not x.is_contiguous():
        raise RuntimeError(f"{name}: images must be contiguous; call .contiguous()")


def check_like(name: str, what: str, t: torch.Tensor, x: torch.Tensor) -> None:
    """A tensor beside the images must be on their device, and contiguous."""
    if t.device != x.device:
        raise RuntimeError(f"{name}: {what} is on {t.device}, the images on {x.device}")
    if not t.is_contiguous():
        raise RuntimeError(f"{name}: {what} must be contiguous; call .contiguous()")


def checked(name: str, what: str, value: int) -> int:
    """A number that the kernels count with in 32 bits."""
    if not -_MOST <= value <= _MOST:
        raise RuntimeError(f"{name}: {what} is {value}, beyond what the kernels count with (2^30)")
    return value


def size(name: str, value: int) -> int:
    """An output size, where it is one that an image can have."""
    if value < 1:
        raise RuntimeError(f"{name}: the padded image is smaller than the filter; pad more")
    return checked(name, "a size", value)


def resampled(name: str, samples: int, taps: int, rate: int) -> int:
    """The size after filtering `samples` by `taps` and keeping every `rate`-th."""
    return size(name, 0 if samples < taps else (samples - taps) // rate + 1)


def rates(name: str, pair: Sequence[int]) -> tuple[int, int]:
    """A pair of rates."""
    for value in pair:
        if not 1 <= value <= _MOST_RATE:
            raise RuntimeError(f"{name}: rates go from 1 to {_MOST_RATE}, not {value}")
    return pair[0], pair[1]


def filter_of(name: str, f: torch.Tensor | None, x: torch.Tensor) -> Filter:
    """A filter as the kernels' parameter; None is the identity."""
    if f is None:
        return Filter(None, 1, 1, 0)
    check_like(name, "the filter", f, x)
    if f.dtype != torch.float32:
        raise RuntimeError(f"{name}: filters must be float32, not {f.dtype}")
    if f.ndim not in (1, 2) or f.numel() == 0:
        raise RuntimeError(
            f"{name}: filters must be [taps] or [height, width], not {list(f.shape)}"
        )
    width = checked(name, "a filter's width", f.shape[-1])
    height = checked(name, "a filter's height", f.shape[0])
    return Filter(f.data_ptr(), width, height, int(f.ndim == 1))


def check_bias(name: str, b: torch.Tensor | None, x: torch.Tensor) -> None:
    """A bias has a value of the images' dtype for each channel."""
    if b is None:
        return
    check_like(name, "the bias", b, x)
    if b.dtype != x.dtype:
        raise RuntimeError(f"{name}: the bias must be {x.dtype} like x, not {b.dtype}")
    if b.ndim != 1 or x.ndim < 2 or b.shape[0] != x.shape[1]:
        raise RuntimeError(
            f"{name}: the bias must have one value for each channel of x, not the shape "
            f"{list(b.shape)}"
        )


def pointer(t: torch.Tensor | None) -> int | None:
    """The address of a tensor's memory; None for no tensor."""
    return None if t is None else t.data_ptr()


def description(t: torch.Tensor | None) -> tuple[object, ...] | None:
    """All that the checks of a tensor depend on: calls that agree in it need no new checks."""
    return None if t is None else (t.shape, t.dtype, t.device, t.is_contiguous())


class PreparedCalls(Generic[Call]):
    """A bounded table of prepared calls by all that they depend on."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, Call] = {}
        self.get = self._calls.get

    def put(self, key: Hashable, call: Call) -> Call:
        """Keep a call, and give it back."""
        if len(self._calls) >= _MOST_CALLS:
            self._calls.clear()
        self._calls[key] = call
        return call

    def clear(self) -> None:
        """Forget all of them."""
        self._calls.clear()
