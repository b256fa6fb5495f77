"""The convolution of the discriminator, and the weights of many of them in few launches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sg3flow.networks.equalized import scaled_copies
from sg3flow.ops import bias_act, conv2d_resample, setup_filter
from sg3flow.ops.act_filter import filtered_act
from sg3flow.ops.convolutions import convolve, down_padding


@dataclass(frozen=True)
class Fusion:
    """What a layer with a leaky ReLU does in the same passes over its activations.

    Attributes:
        is_filtered: its input has been filtered for the downsampling of this layer.
        following: a layer that downsamples: the result is filtered for it.
        base: added to the result.
    """

    is_filtered: bool = False
    following: "Conv2dLayer | None" = None
    base: torch.Tensor | None = None


class Conv2dLayer(nn.Module):
    """Convolution, bias and activation with equalized learning rate, optionally downsampling by 2.

    Frozen layers (``trainable=False``) have buffers instead of parameters.
    """

    resample_filter: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        down: int = 1,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation, self.down, self.conv_clamp = activation, down, conv_clamp
        self.is_linear = activation == "linear" and not bias and conv_clamp is None
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.act_gain = math.sqrt(2) if activation == "lrelu" else 1.0
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        start = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if start is None else nn.Parameter(start)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("bias", start)

    def forward(
        self,
        x: torch.Tensor,
        gain: float = 1,
        prepared: tuple[torch.Tensor, torch.Tensor | None] | None = None,
        is_resampled: bool = False,
        fusion: Fusion | None = None,
    ) -> torch.Tensor:
        """[N, C_in, H, W] -> [N, C_out, H/down, W/down]; `gain` scales the result and its clamp.

        Args:
            prepared: weight and bias of `prepared_weights`, made with the same `gain`.
            is_resampled: `x` [N, C_in, H/down, W/down] is downsampled already; for 1x1 kernels.
            fusion: for a layer with a leaky ReLU: computed together with what is around it.
        """
        if fusion is not None:
            return self._fused(x, gain, prepared, fusion)
        w, b = prepared or self._prepared(x.dtype)
        down = 1 if is_resampled else self.down
        y = conv2d_resample(x, w, self.resample_filter, down=down, padding=self.padding)
        if prepared is not None and self.is_linear:
            return y  # its weights have the gain
        return bias_act(
            y, b, act=self.activation, gain=self.act_gain * gain, clamp=self._clamp(gain)
        )

    def _fused(
        self,
        x: torch.Tensor,
        gain: float,
        prepared: tuple[torch.Tensor, torch.Tensor | None] | None,
        fusion: Fusion,
    ) -> torch.Tensor:
        w, b = prepared or self._prepared(x.dtype)
        if fusion.is_filtered:
            y = convolve(x, w, stride=2)
        else:
            y = conv2d_resample(x, w, padding=self.padding)
        following = fusion.following
        f, padding = (None, (0, 0, 0, 0)) if following is None else following.down_filter()
        return filtered_act(y, b, self.act_gain * gain, self._clamp(gain), f, padding, fusion.base)

    def down_filter(self) -> tuple[torch.Tensor, tuple[int, int, int, int]]:
        """Of a layer that downsamples: the filter before its convolution, and the padding."""
        return self.resample_filter, down_padding(self.resample_filter, self.padding)

    def _clamp(self, gain: float) -> float | None:
        return None if self.conv_clamp is None else self.conv_clamp * gain

    def _prepared(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        w = (self.weight * self.weight_gain).to(dtype)
        return w, None if self.bias is None else self.bias.to(dtype)


Prepared = dict[Conv2dLayer, tuple[torch.Tensor, torch.Tensor | None]]


def prepared_weights(
    layers: Sequence[tuple[Conv2dLayer, float, torch.dtype]],
) -> Prepared:
    """Weight and bias of many layers at once, scaled and in the dtype that each computes in.

    Args:
        layers: each with the `gain` and the dtype of the input that it will be called with.
    """
    tensors: list[torch.Tensor] = []
    scales: list[float] = []
    dtypes: list[torch.dtype] = []
    for layer, gain, dtype in layers:
        tensors.append(layer.weight)
        scales.append(layer.weight_gain * gain if layer.is_linear else layer.weight_gain)
        dtypes.append(dtype)
        if layer.bias is not None and layer.bias.dtype != dtype:
            tensors.append(layer.bias)
            scales.append(1.0)
            dtypes.append(dtype)
    made = iter(scaled_copies(tensors, scales, dtypes))
    prepared: Prepared = {}
    for layer, _, dtype in layers:
        weight, bias = next(made), layer.bias
        prepared[layer] = (weight, next(made) if bias is not None and bias.dtype != dtype else bias)
    return prepared
