"""Shapes and gradients of the compiled convolutions and matrix products, declared to torch.

`op_registration` has their schemas. Images are contiguous [N, C, H, W].
"""

from typing import Any

import torch

from sg3flow.ops.op_registration import LIBRARY


def _conv3x3_fake(
    x: torch.Tensor,
    w: torch.Tensor,
    before: torch.Tensor | None,
    after: torch.Tensor | None,
    padding: int,
) -> torch.Tensor:
    shrunk = 2 - 2 * padding
    return x.new_empty(x.shape[0], w.shape[0], x.shape[2] - shrunk, x.shape[3] - shrunk)


torch.library.register_fake("sg3flow::conv3x3", _conv3x3_fake, lib=LIBRARY)


def _conv3x3_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, w, before, after, padding = inputs
    # Only the gradient of `after` needs the result; keeping it is cheaper than convolving again.
    keeps = after is not None and ctx.needs_input_grad[3]
    ctx.save_for_backward(x, w, before, after, output if keeps else None)
    ctx.padding = padding


def _conv3x3_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Built from differentiable ops, so every order has a gradient; `after` must not be 0."""
    x, w, before, after, y = ctx.saved_tensors
    needs_x, needs_w, needs_before, needs_after, _ = ctx.needs_input_grad
    grad = grad.contiguous()
    dx = dw = db = da = None
    if needs_x or needs_before:
        dx, db = _pulled_to_input(x, grad, w, before, after, ctx.padding, needs_before)
    if needs_w:
        dw = torch.ops.sg3flow.conv3x3_weight(x, grad, before, after, ctx.padding)
    if needs_after:
        da = torch.ops.sg3flow.plane_products(grad, y) / after
    return dx if needs_x else None, dw, db, da, None


def _pulled_to_input(
    x: torch.Tensor,
    grad: torch.Tensor,
    w: torch.Tensor,
    before: torch.Tensor | None,
    after: torch.Tensor | None,
    padding: int,
    needs_before: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x and, if needed, of the factors before the convolution."""
    turned = w.flip((2, 3)).transpose(0, 1).contiguous()
    inner = None if needs_before else before
    dx: torch.Tensor = torch.ops.sg3flow.conv3x3(grad, turned, after, inner, 2 - padding)
    if not needs_before:
        return dx, None
    assert before is not None
    db = torch.ops.sg3flow.plane_products(x, dx)
    factors = before[:, :, None, None]
    # In place, unless a second-order gradient needs the present values of `dx`.
    return dx * factors if torch.is_grad_enabled() else dx.mul_(factors), db


torch.library.register_autograd(
    "sg3flow::conv3x3", _conv3x3_backward, setup_context=_conv3x3_setup, lib=LIBRARY
)


def _conv3x3_weight_fake(
    x: torch.Tensor,
    grad: torch.Tensor,
    before: torch.Tensor | None,
    after: torch.Tensor | None,
    padding: int,
) -> torch.Tensor:
    return x.new_empty(grad.shape[1], x.shape[1], 3, 3)


torch.library.register_fake("sg3flow::conv3x3_weight", _conv3x3_weight_fake, lib=LIBRARY)


def _conv3x3_weight_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.padding = inputs
    ctx.save_for_backward(*tensors)


def _conv3x3_weight_backward(ctx: Any, tangent: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The op is linear in x and in grad: both gradients are convolutions with the tangent."""
    x, grad, before, after = ctx.saved_tensors
    needs_x, needs_grad, needs_before, needs_after, _ = ctx.needs_input_grad
    tangent = tangent.contiguous()
    dx = dg = db = da = None
    if needs_x or needs_before:
        dx, db = _pulled_to_input(x, grad, tangent, before, after, ctx.padding, needs_before)
    if needs_grad or needs_after:
        outer = None if needs_after else after
        dg = torch.ops.sg3flow.conv3x3(x, tangent, before, outer, ctx.padding)
    if needs_after:
        assert dg is not None
        da = torch.ops.sg3flow.plane_products(grad, dg)
        dg = dg * after[:, :, None, None]
    return dx if needs_x else None, dg if needs_grad else None, db, da, None


torch.library.register_autograd(
    "sg3flow::conv3x3_weight",
    _conv3x3_weight_backward,
    setup_context=_conv3x3_weight_setup,
    lib=LIBRARY,
)


def _matrix_product_fake(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return b.new_empty(a.shape[0], a.shape[1], b.shape[2])


torch.library.register_fake("sg3flow::matrix_product", _matrix_product_fake, lib=LIBRARY)


def _matrix_product_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _matrix_product_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    a, b = ctx.saved_tensors
    da = grad @ b.mT if ctx.needs_input_grad[0] else None
    if not ctx.needs_input_grad[1]:
        return da, None
    return da, torch.ops.sg3flow.matrix_product(a.mT, grad.contiguous())


torch.library.register_autograd(
    "sg3flow::matrix_product",
    _matrix_product_backward,
    setup_context=_matrix_product_setup,
    lib=LIBRARY,
)


def _plane_products_fake(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[:2])


torch.library.register_fake("sg3flow::plane_products", _plane_products_fake, lib=LIBRARY)


def _plane_products_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _plane_products_backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, y = ctx.saved_tensors
    grad = grad[:, :, None, None]
    return grad * y, grad * x


torch.library.register_autograd(
    "sg3flow::plane_products",
    _plane_products_backward,
    setup_context=_plane_products_setup,
    lib=LIBRARY,
)
