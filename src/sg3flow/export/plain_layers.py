"""The layers that all generators share as plain ops, for export: linear, modulated, mapping."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sg3flow.networks.layers import FullyConnectedLayer, MappingNetwork, normalize_2nd_moment

_EPS = 1e-8  # added to squared norms, as in ops/modulation.py


class PlainLinear(nn.Module):
    """A layer with equalized learning rate; the gains are multiplied into the stored weights.

    Args:
        gain: further factor on the result; for linear layers only.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: FullyConnectedLayer, gain: float = 1) -> None:
        super().__init__()
        self.is_lrelu = layer.activation == "lrelu"
        bias = layer.bias
        self.register_buffer("weight", layer.weight.detach() * (layer.weight_gain * gain))
        self.register_buffer(
            "bias", None if bias is None else bias.detach() * (layer.bias_gain * gain)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] -> [N, out_features]."""
        x = F.linear(x, self.weight, self.bias)
        return F.leaky_relu(x, 0.2) * math.sqrt(2) if self.is_lrelu else x


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by styles, and its outputs demodulated.

    One convolution of scaled activations serves all samples, so that the batch is free and the file
    has each weight once: the norms of the demodulation are computed from it.

    Args:
        affine: the layer that makes the styles of w.
        weight: [C_out, C_in, k, k].
        input_gain: not undone by the demodulation.
        transposed: upsample by 2 with a transposed convolution that crops (y, x) = `padding`.
        is_normalized: scale weights and styles to unit mean square first; the demodulation undoes
            it, but for what is added to squared norms.
    """

    weight: torch.Tensor

    def __init__(
        self,
        affine: FullyConnectedLayer,
        weight: torch.Tensor,
        padding: int,
        demodulate: bool = True,
        input_gain: float = 1,
        style_gain: float = 1,
        transposed: bool = False,
        is_normalized: bool = False,
    ) -> None:
        super().__init__()
        self.affine = PlainLinear(affine, style_gain)
        self.padding, self.demodulate, self.input_gain = padding, demodulate, input_gain
        self.transposed, self.is_normalized = transposed, is_normalized
        weight = weight.detach().to(torch.float32)
        if is_normalized:
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        self.register_buffer("weight", (weight.transpose(0, 1) if transposed else weight).clone())

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[N, C_in, H, W], [N, w_dim] -> [N, C_out, H', W']."""
        styles = self.affine(w)  # [N, C_in]
        if self.is_normalized:
            # Of each sample; the network does it over the batch, which the demodulation undoes.
            styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
        x = x * (styles * self.input_gain)[:, :, None, None]
        if self.transposed:
            x = F.conv_transpose2d(x, self.weight, stride=2, padding=self.padding)
        else:
            x = F.conv2d(x, self.weight, padding=self.padding)
        if not self.demodulate:
            return x
        norms = self.weight.square().sum(dim=(2, 3))  # [C_out, C_in]; transposed: [C_in, C_out]
        energy = styles.square() @ (norms if self.transposed else norms.t())
        demodulated: torch.Tensor = x * (energy + _EPS).rsqrt()[:, :, None, None]
        return demodulated


class PlainMapping(nn.Module):
    """z, label -> w with truncation: one w per image, as all layers get the same.

    Attributes:
        z_dim, c_dim: widths of the inputs; 0: there is no such input.
    """

    w_avg: torch.Tensor

    def __init__(self, mapping: MappingNetwork) -> None:
        super().__init__()
        self.z_dim, self.c_dim = mapping.z_dim, mapping.c_dim
        self.embed = PlainLinear(mapping.embed) if mapping.c_dim else None
        layers: list[Any] = [mapping.get_submodule(f"fc{i}") for i in range(mapping.num_layers)]
        self.layers = nn.Sequential(*map(PlainLinear, layers))
        self.register_buffer("w_avg", mapping.w_avg.detach().clone())

    def forward(
        self, z: torch.Tensor | None, label: torch.Tensor | None, psi: torch.Tensor
    ) -> torch.Tensor:
        """z [N, z_dim], label [N, c_dim], psi [] -> w [N, w_dim]."""
        parts = [] if z is None else [normalize_2nd_moment(z)]
        if self.embed is not None:
            parts.append(normalize_2nd_moment(self.embed(label)))
        w: torch.Tensor = self.layers(torch.cat(parts, dim=1))
        near: torch.Tensor = self.w_avg + (w - self.w_avg) * psi
        return near
