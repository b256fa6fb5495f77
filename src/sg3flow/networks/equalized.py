"""Equalized learning rate in few launches: scaled products, and scaled copies of many weights.

For devices where a launch costs more than the arithmetic on a small weight. Every function here is
linear in each tensor, and its gradient consists of the same functions: all orders are supported.
"""

from collections.abc import Sequence
from typing import Any

import torch


def scaled_linear(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, gain: float, bias_gain: float
) -> torch.Tensor:
    """``gain * x @ w.t() + bias_gain * b`` in one launch.

    Args:
        x: [N, in]; w: [out, in]; b: [out] or None; all of the same dtype.
    """
    y: torch.Tensor = _Linear.apply(x, w, b, gain, bias_gain)  # type: ignore[no-untyped-call]
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        gain: float,
        bias_gain: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.gains = (gain, bias_gain)
        if b is None:
            return _product(x, w.t(), gain)
        return torch.addmm(b, x, w.t(), beta=bias_gain, alpha=gain)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad,), (x, w) = grads, ctx.saved_tensors
        gain, bias_gain = ctx.gains
        dx = _scaled_product(grad, w, gain) if ctx.needs_input_grad[0] else None
        dw = _scaled_product(grad.t(), x, gain) if ctx.needs_input_grad[1] else None
        db = None
        if ctx.needs_input_grad[2]:
            db = grad.sum(dim=0) if bias_gain == 1 else grad.sum(dim=0) * bias_gain
        return dx, dw, db, None, None


class _Product(torch.autograd.Function):
    """``scale * a @ b``."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        ctx.scale = scale
        return _product(a, b, scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad,), (a, b) = grads, ctx.saved_tensors
        da = _scaled_product(grad, b.t(), ctx.scale) if ctx.needs_input_grad[0] else None
        db = _scaled_product(a.t(), grad, ctx.scale) if ctx.needs_input_grad[1] else None
        return da, db, None


def _scaled_product(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    product: torch.Tensor = _Product.apply(a, b, scale)  # type: ignore[no-untyped-call]
    return product


def _product(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    unread = a.new_empty([])  # beta is 0
    return torch.addmm(unread, a, b, beta=0, alpha=scale)


def scaled_copies(
    tensors: Sequence[torch.Tensor], scales: Sequence[float], dtypes: Sequence[torch.dtype]
) -> list[torch.Tensor]:
    """``scale * tensor``, rounded to a dtype, for each of `tensors`, in one launch or two.

    The products are computed in the wider of the two dtypes.
    """
    made = _Copies.apply(tuple(scales), tuple(dtypes), *tensors)  # type: ignore[no-untyped-call]
    return list(made)


class _Copies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        scales: tuple[float, ...],
        dtypes: tuple[torch.dtype, ...],
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.scales, ctx.dtypes = scales, tuple(tensor.dtype for tensor in tensors)
        wider = [max(t.dtype, d, key=_size) for t, d in zip(tensors, dtypes, strict=True)]
        products = torch._foreach_mul(_converted(tensors, wider), list(scales))
        return tuple(_converted(products, dtypes))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[Any, ...]:
        having = [i for i, grad in enumerate(grads) if grad is not None]
        made = iter(
            scaled_copies(
                [grads[i] for i in having],  # type: ignore[misc]
                [ctx.scales[i] for i in having],
                [ctx.dtypes[i] for i in having],
            )
            if having
            else ()
        )
        return None, None, *(None if grad is None else next(made) for grad in grads)


def _size(dtype: torch.dtype) -> int:
    return dtype.itemsize


def _converted(
    tensors: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype]
) -> list[torch.Tensor]:
    """The tensors in other dtypes; those that have theirs are not copied."""
    converted = list(tensors)
    for dtype in set(dtypes):
        due = [i for i, tensor in enumerate(tensors) if tensor.dtype != dtypes[i] == dtype]
        if due:
            copies = [torch.empty_like(tensors[i], dtype=dtype) for i in due]
            torch._foreach_copy_(copies, [tensors[i] for i in due])
            for i, copy in zip(due, copies, strict=True):
                converted[i] = copy
    return converted
