"""The synthesis network of StyleGAN2 as plain ops, for export; the noise is the constant one."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sg3flow.export.plain_filters import fir_passes
from sg3flow.export.plain_layers import ModulatedConv
from sg3flow.networks import stylegan2


class PlainLayer(nn.Module):
    """Modulated 3x3 convolution, upsampling by 2 on request, noise, bias, leaky ReLU, clamp."""

    noise: torch.Tensor | None
    bias: torch.Tensor

    def __init__(self, source: stylegan2.SynthesisLayer) -> None:
        super().__init__()
        is_up = source.up == 2
        self.conv = ModulatedConv(
            source.affine, source.weight, padding=0 if is_up else 1, transposed=is_up
        )
        self.filter = nn.Sequential()
        if is_up:
            # The transposed convolution of R/2 samples gives R + 1; the filter leaves R.
            taps, side = source.resample_filter.shape[0], source.resolution + 1
            pads = ((taps + 1) // 2 - 1, (taps - 2) // 2)
            f = source.resample_filter
            channels = source.weight.shape[0]
            self.filter, _ = fir_passes(channels, f, (side, side), padding=(*pads, *pads), gain=4)
        noise = source.noise_const * source.noise_strength.detach() if source.use_noise else None
        self.register_buffer("noise", noise if noise is not None and noise.any() else None)
        self.register_buffer("bias", source.bias.detach().clone())
        self.clamp = source.conv_clamp

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[N, in, R/up, R/up] -> [N, out, R, R]."""
        x = self.filter(self.conv(x, w))
        if self.noise is not None:
            x = x + self.noise
        x = F.leaky_relu(x + self.bias[:, None, None], 0.2) * math.sqrt(2)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class PlainToRGB(nn.Module):
    """Modulated 1x1 convolution to the image channels, bias, clamp."""

    bias: torch.Tensor

    def __init__(self, source: stylegan2.ToRGBLayer) -> None:
        super().__init__()
        gain = 1 / math.sqrt(source.weight.shape[1])
        self.conv = ModulatedConv(
            source.affine, source.weight, padding=0, demodulate=False, style_gain=gain
        )
        self.register_buffer("bias", source.bias.detach().clone())
        self.clamp = source.conv_clamp

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[N, in, R, R] -> [N, img_channels, R, R]."""
        x = self.conv(x, w) + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class PlainStyleGAN2(nn.Module):
    """w [N, w_dim] -> img [N, img_channels, R, R]."""

    const: torch.Tensor

    def __init__(self, synthesis: stylegan2.SynthesisNetwork) -> None:
        super().__init__()
        self.resolutions = synthesis.resolutions
        for res in self.resolutions:
            block: Any = synthesis.get_submodule(f"b{res}")
            if res == self.resolutions[0]:
                self.register_buffer("const", block.const.detach().clone())
            else:
                self.add_module(f"conv0_{res}", PlainLayer(block.conv0))
                self.add_module(f"upsample_{res}", _upsample(block, synthesis.img_channels))
            self.add_module(f"conv1_{res}", PlainLayer(block.conv1))
            self.add_module(f"torgb_{res}", PlainToRGB(block.torgb))

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        first, *others = self.resolutions
        # Multiplied by ones, not expanded: the batch stays free in the file.
        x = self.const * torch.ones_like(w[:, :1])[:, :, None, None]
        x = self.get_submodule(f"conv1_{first}")(x, w)
        img: torch.Tensor = self.get_submodule(f"torgb_{first}")(x, w)
        for res in others:
            x = self.get_submodule(f"conv0_{res}")(x, w)
            x = self.get_submodule(f"conv1_{res}")(x, w)
            larger = self.get_submodule(f"upsample_{res}")(img)
            img = larger + self.get_submodule(f"torgb_{res}")(x, w)
        return img


def _upsample(block: Any, channels: int) -> nn.Sequential:
    """`upsample2d` by 2 of an image [N, channels, R/2, R/2]."""
    f = block.resample_filter
    half, taps = block.conv1.resolution // 2, f.shape[0]
    pads = ((taps + 1) // 2, (taps - 2) // 2)
    passes, _ = fir_passes(channels, f, (half, half), up=2, padding=(*pads, *pads), gain=4)
    return passes
