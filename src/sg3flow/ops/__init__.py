"""The signal-processing ops of StyleGAN: resampling filters, activations and their convolutions.

Every op is differentiable to any order (R1 differentiates the discriminator twice).
"""

from sg3flow.ops.backend import backend_name
from sg3flow.ops.bias_act import bias_act
from sg3flow.ops.convolutions import conv2d_resample
from sg3flow.ops.filtered_lrelu import filtered_lrelu
from sg3flow.ops.modulation import modulated_conv2d
from sg3flow.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "backend_name",
    "bias_act",
    "conv2d_resample",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "modulated_conv2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
