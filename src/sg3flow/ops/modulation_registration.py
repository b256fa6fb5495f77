"""The weights of modulated convolutions as ops of compiled kernels, declared to torch.

The weight of sample n is ``w[o, i] * a[n, o] * b[n, i]``, in half precision where the convolution
is, with factors `a` [N, C_out] (None: 1) that demodulate and `b` [N, C_in] that modulate. It is
written in one pass: the product of `w` [C_out, C_in, kh, kw] and a style is never in memory, so it
overflows in no dtype and needs no normalization before.

All ops compute in the dtype of `w`, and have gradients of every order. Implemented here in pure
PyTorch for CPU tensors, for tests.
"""

import functools
from typing import Any

import torch

from sg3flow.ops.op_registration import LIBRARY

_SCHEMAS = (
    "scaled_weights(Tensor w, Tensor? a, Tensor b, ScalarType dtype) -> Tensor",
    "scaled_weights_grad(Tensor grad, Tensor w, Tensor? a, Tensor b)"
    " -> (Tensor dw, Tensor da, Tensor db)",
    "demodulation(Tensor w, Tensor s, float eps, bool relative) -> Tensor",
    "demodulation_grad(Tensor grad, Tensor a, Tensor w, Tensor s) -> (Tensor dw, Tensor ds)",
)
for _schema in _SCHEMAS:
    LIBRARY.define(_schema)  # type: ignore[no-untyped-call]

_Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scaled_weights(
    w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """[N, C_out, C_in, kh, kw] of `dtype`."""
    scaled = w * b[:, None, :, None, None]
    if a is not None:
        scaled = scaled * a[:, :, None, None, None]
    return scaled.to(dtype)


def scaled_weights_grad(
    grad: torch.Tensor, w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor
) -> _Gradients:
    """The gradients of `w`, `a` (empty without one) and `b`, in one pass over `grad`."""
    ones = b.new_ones(len(b), len(w)) if a is None else a
    wide = grad.to(w.dtype)
    products = torch.einsum("noikl,oikl->noi", wide, w)
    dw = torch.einsum("noikl,no,ni->oikl", wide, ones, b)
    da = b.new_empty(0) if a is None else torch.einsum("noi,ni->no", products, b)
    db = torch.einsum("noi,no->ni", products, ones)
    return dw.contiguous(), da.contiguous(), db.contiguous()


def demodulation(w: torch.Tensor, s: torch.Tensor, eps: float, relative: bool) -> torch.Tensor:
    """[N, C_out]: one over the L2 norm of each output's modulated weights.

    Args:
        eps: added to the square of the norm; if `relative`, times the mean squares of the weights
            of the output and of all styles: as if both had been normalized before.
    """
    energy = s.square() @ w.square().sum(dim=(2, 3)).t()
    if not relative:
        return (energy + eps).rsqrt()
    return (energy + eps * s.square().mean() * w.square().mean(dim=(1, 2, 3))).rsqrt()


def demodulation_grad(
    grad: torch.Tensor, a: torch.Tensor, w: torch.Tensor, s: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `w` and `s`, without those of the epsilon: 1e-8 of the rest.

    By differentiable operations. ``a = energy ** -0.5`` and ``energy = s^2 @ (w^2).t()``.
    """
    d_energy = grad * a.pow(3) * -0.5  # [N, C_out]
    dw = (d_energy.t() @ s.square())[:, :, None, None] * w * 2
    return dw, d_energy @ w.square().sum(dim=(2, 3)) * s * 2


for _implementation in (scaled_weights, scaled_weights_grad, demodulation, demodulation_grad):
    LIBRARY.impl(_implementation.__name__, _implementation, "CPU")  # type: ignore[no-untyped-call]


def _scaled_weights_fake(
    w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    return w.new_empty(len(b), *w.shape, dtype=dtype)


torch.library.register_fake("sg3flow::scaled_weights", _scaled_weights_fake, lib=LIBRARY)


def _scaled_weights_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    w, a, b, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(w, a, b)


def _scaled_weights_backward(
    ctx: Any, grad: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    w, a, b = ctx.saved_tensors
    dw, da, db = torch.ops.sg3flow.scaled_weights_grad(grad.contiguous(), w, a, b)
    return dw, None if a is None else da, db, None


torch.library.register_autograd(
    "sg3flow::scaled_weights",
    _scaled_weights_backward,
    setup_context=_scaled_weights_setup,
    lib=LIBRARY,
)


def _scaled_weights_grad_fake(
    grad: torch.Tensor, w: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor
) -> _Gradients:
    da = b.new_empty(0) if a is None else torch.empty_like(a)
    return torch.empty_like(w), da, torch.empty_like(b)


torch.library.register_fake("sg3flow::scaled_weights_grad", _scaled_weights_grad_fake, lib=LIBRARY)


def _scaled_weights_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _scaled_weights_grad_backward(
    ctx: Any, tw: torch.Tensor | None, ta: torch.Tensor | None, tb: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    """The op is linear in each tensor: a gradient is a sum with each of the others exchanged."""
    grad, w, a, b = ctx.saved_tensors
    found: list[list[torch.Tensor]] = [[], [], [], []]  # of grad, w, a, b
    exchanged = {1: (tw, a, b), 2: (w, ta, b), 3: (w, a, tb)}
    for place, tangent in enumerate((tw, ta, tb), start=1):
        if tangent is None or (place == 2 and a is None):
            continue
        factors = [None if t is None else t.contiguous() for t in exchanged[place]]
        found[0].append(torch.ops.sg3flow.scaled_weights(*factors, grad.dtype))
        gradients = torch.ops.sg3flow.scaled_weights_grad(grad, *factors)
        for other, gradient in enumerate(gradients, start=1):
            if other != place:
                found[other].append(gradient)
    dg, dw, da, db = (functools.reduce(torch.add, terms) if terms else None for terms in found)
    return dg, dw, None if a is None else da, db


torch.library.register_autograd(
    "sg3flow::scaled_weights_grad",
    _scaled_weights_grad_backward,
    setup_context=_scaled_weights_grad_setup,
    lib=LIBRARY,
)


def _demodulation_fake(
    w: torch.Tensor, s: torch.Tensor, eps: float, relative: bool
) -> torch.Tensor:
    return s.new_empty(len(s), len(w))


torch.library.register_fake("sg3flow::demodulation", _demodulation_fake, lib=LIBRARY)


def _demodulation_setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    w, s, _, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(w, s, output)


def _demodulation_backward(ctx: Any, grad: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """By the op in one order; higher ones differentiate its definition."""
    if grad is None:
        return (None,) * 4
    w, s, a = ctx.saved_tensors
    is_first = not torch.is_grad_enabled()
    gradients = torch.ops.sg3flow.demodulation_grad if is_first else demodulation_grad
    dw, ds = gradients(grad.contiguous(), a, w, s)
    return dw, ds, None, None


torch.library.register_autograd(
    "sg3flow::demodulation",
    _demodulation_backward,
    setup_context=_demodulation_setup,
    lib=LIBRARY,
)


def _demodulation_grad_fake(
    grad: torch.Tensor, a: torch.Tensor, w: torch.Tensor, s: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(w), torch.empty_like(s)


torch.library.register_fake("sg3flow::demodulation_grad", _demodulation_grad_fake, lib=LIBRARY)
