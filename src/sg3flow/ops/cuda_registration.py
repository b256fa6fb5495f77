"""Registers the CUDA implementations of the ops with torch."""

import functools

import torch

from sg3flow.kernels.nvrtc import find_nvrtc
from sg3flow.ops import cuda_device, modulation_registration, op_registration  # noqa: F401 - declare the ops
from sg3flow.ops.cuda_bias_act import bias_act, bias_act_grad
from sg3flow.ops.cuda_filtered_lrelu import filtered_lrelu, filtered_lrelu_flagged
from sg3flow.ops.cuda_modulation import (
    demodulation,
    demodulation_grad,
    scaled_weights,
    scaled_weights_grad,
)
from sg3flow.ops.cuda_upfirdn2d import upfirdn2d, upfirdn2d_add

_OPS = (
    *(upfirdn2d, upfirdn2d_add, bias_act, bias_act_grad, filtered_lrelu, filtered_lrelu_flagged),
    *(scaled_weights, scaled_weights_grad, demodulation, demodulation_grad),
)


@functools.cache
def register(dispatch_key: str = "CUDA") -> torch.library.Library:
    """Register the ops once; another key than CUDA is for tests."""
    library = torch.library.Library("sg3flow", "IMPL", dispatch_key)  # type: ignore[no-untyped-call]
    for op in _OPS:
        library.impl(op.__name__, op)  # type: ignore[no-untyped-call]
    return library


def cuda_compiler() -> str:
    """The compiler of the kernels, in words."""
    nvrtc = find_nvrtc(cuda_device.access.cuda_major())
    return f"NVRTC {nvrtc.version[0]}.{nvrtc.version[1]}, {nvrtc.file}"
