"""The weights of modulated convolutions on a GPU: checks, memory and launches.

Factors and weights are float32; only the weights of each sample, and their gradient, have another
dtype. The gradients of the factors come as partial sums, which torch adds up in a fixed order.
"""

from collections.abc import Hashable
from typing import NamedTuple

import torch

from sg3flow.ops.cuda_checks import (
    PreparedCalls,
    check_like,
    checked,
    description,
    pointer,
    type_code,
)
from sg3flow.ops.cuda_device import index_of
from sg3flow.ops.cuda_launch import launch, launch_over, load_program
from sg3flow.ops.cuda_programs import (
    KERNEL_SIZES,
    RUNS,
    demodulation_kernel,
    demodulation_program,
    sample_weights_program,
    scale_grad_kernel,
    scale_kernel,
)
from sg3flow.ops.cuda_structs import Demodulation, Weights

_THREADS = 256  # as in `cuda/sample_weights.h` and `cuda/demodulation.h`
_LANES, _SAMPLES = 32, 8  # inputs of a tile, samples of a block that demodulates
OUTPUTS = {1: 32, 9: 4}  # outputs of a tile, by the elements of the convolution's kernel
_MOST_BLOCKS = 1 << 20


class _Call(NamedTuple):
    """A checked call, without its addresses.

    Attributes:
        functions: handles of the kernels, in the order of their launches.
    """

    template: bytes
    functions: tuple[int, ...]
    samples: int
    outputs: int
    inputs: int
    taps: int


_calls: PreparedCalls[_Call] = PreparedCalls()


def scaled_weights(
    w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The op of this name."""
    name = "scaled_weights"
    key = (name, description(w), description(a), description(b), dtype)
    call = _calls.get(key)
    if call is None:
        taps, row = _taps(name, w), w[0].numel()
        run = next(count for count in RUNS if row % count == 0)
        type_code(name, w.new_empty(0, dtype=dtype))
        functions = load_program(sample_weights_program(dtype), index_of(w))
        call = _checked_weights(key, name, w, a, b, functions[scale_kernel(dtype, taps, run)])
    y = w.new_empty(len(b), *w.shape, dtype=dtype)
    if y.numel():
        op = Weights.from_buffer_copy(call.template)
        op.w, op.a, op.b, op.y = w.data_ptr(), pointer(a), b.data_ptr(), y.data_ptr()
        blocks = min(call.samples * call.outputs, _MOST_BLOCKS)
        launch(name, call.functions[0], blocks, _THREADS, (op,), index_of(w))
    return y


def scaled_weights_grad(
    grad: torch.Tensor, w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The op of this name."""
    name = "scaled_weights_grad"
    key = (name, description(grad), description(w), description(a), description(b))
    call = _calls.get(key)
    if call is None:
        taps = _taps(name, w)
        check_like(name, "the gradient", grad, w)
        if grad.shape != (len(b), *w.shape):
            raise RuntimeError(
                f"{name}: the gradient must be {[len(b), *w.shape]}, not {list(grad.shape)}"
            )
        type_code(name, grad)
        functions = load_program(sample_weights_program(grad.dtype), index_of(w))
        function = functions[scale_grad_kernel(grad.dtype, taps)]
        call = _checked_weights(key, name, w, a, b, function)
    if grad.numel() == 0:
        return (
            torch.zeros_like(w),
            b.new_empty(0) if a is None else torch.zeros_like(a),
            torch.zeros_like(b),
        )
    output_tiles, input_tiles = -(-call.outputs // OUTPUTS[call.taps]), -(-call.inputs // _LANES)
    dw, db = torch.empty_like(w), b.new_empty(output_tiles, *b.shape)
    da = None if a is None else a.new_empty(input_tiles, *a.shape)
    op = Weights.from_buffer_copy(call.template)
    op.w, op.a, op.b, op.grad = w.data_ptr(), pointer(a), b.data_ptr(), grad.data_ptr()
    op.dw, op.da, op.db = dw.data_ptr(), pointer(da), db.data_ptr()
    blocks = output_tiles * input_tiles
    launch(name, call.functions[0], blocks, _THREADS, (op,), index_of(w))
    return dw, b.new_empty(0) if da is None else da.sum(dim=0), db.sum(dim=0)


def demodulation(w: torch.Tensor, s: torch.Tensor, eps: float, relative: bool) -> torch.Tensor:
    """The op of this name."""
    name = "demodulation"
    key = (name, description(w), description(s), eps, relative)
    call = _calls.get(key) or _checked_demodulation(key, name, w, s, ("",), eps, relative)
    y = s.new_empty(call.samples, call.outputs)
    if y.numel():
        op = Demodulation.from_buffer_copy(call.template)
        op.w, op.s, op.y = w.data_ptr(), s.data_ptr(), y.data_ptr()
        blocks = call.outputs * -(-call.samples // _SAMPLES)
        launch(name, call.functions[0], blocks, _THREADS, (op,), index_of(w))
    return y


def demodulation_grad(
    grad: torch.Tensor, a: torch.Tensor, w: torch.Tensor, s: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op of this name."""
    name = "demodulation_grad"
    key = (name, description(grad), description(a), description(w), description(s))
    call = _calls.get(key)
    if call is None:
        for what, each in (("the gradient", grad), ("the result", a)):
            _check_factors(name, what, each, w, (len(s), len(w)))
        call = _checked_demodulation(key, name, w, s, ("dw", "ds"))
    if grad.numel() == 0:
        return torch.zeros_like(w), torch.zeros_like(s)
    dw, ds = torch.empty_like(w), torch.empty_like(s)
    op = Demodulation.from_buffer_copy(call.template)
    op.w, op.s, op.a, op.grad = w.data_ptr(), s.data_ptr(), a.data_ptr(), grad.data_ptr()
    op.dw, op.ds = dw.data_ptr(), ds.data_ptr()
    launch_over(name, call.functions[0], call.outputs * call.inputs, (op,), index_of(w))
    blocks = -(-call.inputs // _LANES) * -(-call.samples // _SAMPLES)
    launch(name, call.functions[1], blocks, _THREADS, (op,), index_of(w))
    return dw, ds


def _checked_weights(
    key: Hashable,
    name: str,
    w: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor,
    function: int,
) -> _Call:
    _check_factors(name, "b", b, w, (len(b), w.shape[1]))
    if a is not None:
        _check_factors(name, "a", a, w, (len(b), len(w)))
    op = Weights(samples=checked(name, "the samples", len(b)), outputs=len(w), inputs=w.shape[1])
    return _calls.put(
        key, _Call(bytes(op), (function,), op.samples, op.outputs, op.inputs, _taps(name, w))
    )


def _checked_demodulation(
    key: Hashable,
    name: str,
    w: torch.Tensor,
    s: torch.Tensor,
    parts: tuple[str, ...],
    eps: float = 0.0,
    relative: bool = False,
) -> _Call:
    taps = _taps(name, w)
    _check_factors(name, "s", s, w, (len(s), w.shape[1]))
    loaded = load_program(demodulation_program(), index_of(w))
    functions = tuple(loaded[demodulation_kernel(taps, part)] for part in parts)
    op = Demodulation(outputs=len(w), inputs=w.shape[1], relative=relative, eps=eps)
    op.samples = checked(name, "the samples", len(s))
    return _calls.put(key, _Call(bytes(op), functions, op.samples, op.outputs, op.inputs, taps))


def _taps(name: str, w: torch.Tensor) -> int:
    """The elements of the convolution's kernel, of checked weights."""
    if w.ndim != 4 or w.shape[2] * w.shape[3] not in KERNEL_SIZES:
        raise RuntimeError(f"{name}: w must be [out, in, k, k] for k = 1 or 3, not {list(w.shape)}")
    if w.dtype != torch.float32:
        raise RuntimeError(f"{name}: w must be float32, not {w.dtype}")
    check_like(name, "w", w, w)
    checked(name, "the elements of w", w.numel())
    return w.shape[2] * w.shape[3]


def _check_factors(
    name: str, what: str, factors: torch.Tensor, w: torch.Tensor, shape: tuple[int, int]
) -> None:
    check_like(name, what, factors, w)
    if factors.dtype != torch.float32 or factors.shape != shape:
        raise RuntimeError(
            f"{name}: {what} must be float32 {list(shape)}, not {factors.dtype} "
            f"{list(factors.shape)}"
        )
