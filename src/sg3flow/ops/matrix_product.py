"""Products of large matrices, one for each sample: what a 1x1 convolution is."""

import torch

from sg3flow.ops.backend import has_kernels


def matrix_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` for [N, M, K] and [N, K, P], by Strassen's recursion where that is faster.

    A number that is not finite then makes its neighbours in the same sample so, too.
    """
    if not _is_faster_compiled(a, b):
        return a @ b
    y: torch.Tensor = torch.ops.sg3flow.matrix_product(a, b.contiguous())
    return y


def _is_faster_compiled(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether fewer products outweigh the additions of blocks (docs/cpu-kernels.md)."""
    return (
        b.device.type == "cpu"
        and min(a.shape[1:]) >= 256
        and b.shape[2] >= 2048
        and a.dtype == b.dtype
        and torch.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2")
        and has_kernels(b)
    )
