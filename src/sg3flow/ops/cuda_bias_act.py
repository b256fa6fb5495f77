"""bias_act and its gradient on a GPU: checks, memory and launches."""

import math
from typing import NamedTuple

import torch

from sg3flow.ops.cuda_checks import (
    PreparedCalls,
    check_bias,
    check_like,
    checked,
    description,
    pointer,
    type_code,
)
from sg3flow.ops.cuda_device import index_of
from sg3flow.ops.cuda_launch import launch_over, load_program
from sg3flow.ops.cuda_programs import bias_act_kernel, bias_act_program, widest
from sg3flow.ops.cuda_structs import BiasAct

_SHORT = 1 << 31  # elements that 32-bit indices count
_ALIGNMENT = 16  # bytes of a wide access


class _Call(NamedTuple):
    """A checked call, without its addresses.

    Attributes:
        wide: (kernel, launched threads) where all addresses are aligned; None: it does not divide.
        single: the same for one element per thread.
    """

    template: bytes
    wide: tuple[int, int] | None
    single: tuple[int, int]


_calls: PreparedCalls[_Call] = PreparedCalls()


def bias_act(
    x: torch.Tensor, b: torch.Tensor | None, slope: float, gain: float, clamp: float
) -> torch.Tensor:
    """The op of this name."""
    return _run("bias_act", x, b, None, slope, gain, clamp)


def bias_act_grad(
    grad: torch.Tensor, y: torch.Tensor, slope: float, gain: float, clamp: float
) -> torch.Tensor:
    """The op of this name."""
    return _run("bias_act_grad", y, None, grad, slope, gain, clamp)


def _run(
    name: str,
    x: torch.Tensor,
    b: torch.Tensor | None,
    grad: torch.Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> torch.Tensor:
    key = (name, description(x), description(b), description(grad), slope, gain, clamp)
    call = _calls.get(key) or _calls.put(key, _prepare(name, x, b, grad, slope, gain, clamp))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if y.numel() == 0:
        return y
    op = BiasAct.from_buffer_copy(call.template)
    addresses = (x.data_ptr(), pointer(grad), y.data_ptr())
    op.x, op.grad, op.y = addresses
    op.b = pointer(b)
    fits = call.wide is not None and not any((each or 0) % _ALIGNMENT for each in addresses)
    function, count = call.wide if fits and call.wide else call.single
    launch_over(name, function, count, (op,), index_of(x))
    return y


def _prepare(
    name: str,
    x: torch.Tensor,
    b: torch.Tensor | None,
    grad: torch.Tensor | None,
    slope: float,
    gain: float,
    clamp: float,
) -> _Call:
    if grad is not None:
        check_like(name, "the gradient", grad, x)
        if grad.shape != x.shape or grad.dtype != x.dtype:
            raise RuntimeError(
                f"{name}: the gradient must be like y, {x.dtype} {list(x.shape)}, not "
                f"{grad.dtype} {list(grad.shape)}"
            )
    if not x.is_contiguous():
        raise RuntimeError(f"{name}: tensors must be contiguous; call .contiguous()")
    op = BiasAct(type=type_code(name, x), count=x.numel(), slope=slope, gain=gain, clamp=clamp)
    op.channels = checked(name, "the channels", x.shape[1]) if x.ndim >= 2 else 1
    op.inner = math.prod(x.shape[2:])
    check_bias(name, b, x)
    functions = load_program(bias_act_program(x.dtype), index_of(x))
    many, is_long = widest(x.dtype), op.count >= _SHORT
    divides = op.inner % many == 0 and op.count % many == 0
    wide = (functions[bias_act_kernel(x.dtype, many, is_long)], op.count // many)
    single = (functions[bias_act_kernel(x.dtype, 1, is_long)], op.count)
    return _Call(bytes(op), wide if divides else None, single)
