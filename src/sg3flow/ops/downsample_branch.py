"""An image and its downsampled copy, where gradients of both meet: the residual blocks.

The gradient of the copy is upsampled and added to that of the image, by one op: the upsampled
gradient alone is never in memory.
"""

from typing import Any

import torch

from sg3flow.ops import op_registration  # noqa: F401 - declares the op
from sg3flow.ops.backend import has_kernels
from sg3flow.ops.fir import FirSpec, filter_taps
from sg3flow.ops.upfirdn2d import downsample_spec, fir, kernel_taps


def downsample_branch(x: torch.Tensor, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` [N, C, H, W], and `x` downsampled by 2 with the low-pass filter `f`.

    Differentiable to any order.
    """
    branches: tuple[torch.Tensor, torch.Tensor] = _Branch.apply(  # type: ignore[no-untyped-call]
        x, f, downsample_spec(f, 2, 0)
    )
    return branches


class _Branch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, f: torch.Tensor, spec: FirSpec
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(f)
        ctx.adjoint = spec.adjoint((x.shape[2], x.shape[3]), filter_taps(f))
        return x.view_as(x), fir(x, f, spec)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (of_image, of_copy), (f,) = grads, ctx.saved_tensors
        a: FirSpec = ctx.adjoint
        # With gradients enabled, this one is to be differentiated again.
        if torch.is_grad_enabled() or not has_kernels(of_copy, "upfirdn2d"):
            return of_image + fir(of_copy, f, a), None, None
        dx: torch.Tensor = torch.ops.sg3flow.upfirdn2d_add(
            *(of_copy.contiguous(), kernel_taps(f), of_image.contiguous()),
            *(a.up, a.down, a.padding, a.flip, a.gain),
        )
        return dx, None, None
