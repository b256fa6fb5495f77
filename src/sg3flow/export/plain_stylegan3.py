"""The synthesis network of StyleGAN3 as plain ops, for export."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sg3flow.export.plain_filters import FilteredLRelu
from sg3flow.export.plain_layers import ModulatedConv, PlainLinear
from sg3flow.networks import stylegan3


class PlainInput(nn.Module):
    """Fourier features on a grid transformed by w and the caller (Karras et al. 2021, App. F)."""

    freqs: torch.Tensor
    phases: torch.Tensor
    weight: torch.Tensor
    grid: torch.Tensor

    def __init__(self, source: stylegan3.SynthesisInput) -> None:
        super().__init__()
        self.size, self.bandwidth = source.size, source.bandwidth
        self.room = source.sampling_rate / 2 - source.bandwidth
        self.affine = PlainLinear(source.affine)
        weight = source.weight.detach()
        self.register_buffer("weight", weight / math.sqrt(weight.shape[1]))
        self.register_buffer("freqs", source.freqs.clone())
        self.register_buffer("phases", source.phases.clone())
        scale = 0.5 * source.size / source.sampling_rate
        theta = torch.eye(2, 3)[None] * scale
        grid = F.affine_grid(theta, [1, 1, source.size, source.size], align_corners=False)
        self.register_buffer("grid", grid.reshape(-1, 2))  # [H*W, 2]

    def forward(self, w: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
        """[N, w_dim], [3, 3] -> [N, C0, size, size]."""
        rotation, shift = self._motion(w, transform)
        phases = self.phases + (self.freqs @ shift).squeeze(2)  # [N, C0]
        freqs = self.freqs @ rotation  # [N, C0, 2]
        radii = freqs.square().sum(dim=2).sqrt()
        amplitudes = (1 - (radii - self.bandwidth) / self.room).clamp(0, 1)
        angles = (self.grid @ freqs.transpose(1, 2) + phases[:, None]) * (2 * math.pi)
        x = torch.sin(angles) * amplitudes[:, None]  # [N, H*W, C0]
        x = (x @ self.weight.t()).transpose(1, 2)
        return torch.unflatten(x, 2, (self.size, self.size))

    def _motion(
        self, w: torch.Tensor, transform: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rotation [N, 2, 2] and shift [N, 2, 1] of w, after the caller's transform.

        The rotation of w by (c, s) and its shift by (x, y) give the matrix
        [[c, -s, -c x + s y], [s, c, -s x - c y], [0, 0, 1]].
        """
        t = self.affine(w)  # [N, 4]: (r_c, r_s, t_x, t_y)
        t = t / t[:, :2].square().sum(dim=1, keepdim=True).sqrt()
        c, s, x, y = t[:, 0:1], t[:, 1:2], t[:, 2:3], t[:, 3:4]  # [N, 1] each
        rows = torch.cat([c, -s, s * y - c * x, s, c, -s * x - c * y], dim=1)
        m = torch.unflatten(rows, 1, (2, 3)) @ transform  # [N, 2, 3]
        return m[:, :, :2], m[:, :, 2:]


class PlainLayer(nn.Module):
    """Modulated convolution and the alias-free nonlinearity."""

    def __init__(self, source: stylegan3.SynthesisLayer) -> None:
        super().__init__()
        plan, kernel = source.plan, source.weight.shape[2]
        padding = 0 if plan.is_torgb else kernel - 1
        self.conv = ModulatedConv(
            source.affine,
            source.weight,
            padding,
            demodulate=not plan.is_torgb,
            input_gain=float(source.magnitude_ema.rsqrt()),
            style_gain=1 / math.sqrt(source.weight[0].numel()) if plan.is_torgb else 1,
            is_normalized=not plan.is_torgb,
        )
        side = plan.in_size + 2 * padding - kernel + 1
        self.act = FilteredLRelu(
            source.bias.detach(),
            source.up_filter,
            source.down_filter,
            (side, side),
            plan.up_factor,
            plan.down_factor,
            plan.padding,
            gain=1 if plan.is_torgb else math.sqrt(2),
            slope=1 if plan.is_torgb else 0.2,
            clamp=source.conv_clamp,
        )

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, in_size, in_size] -> [N, out_channels, out_size, out_size]."""
        y: torch.Tensor = self.act(self.conv(x, w))
        return y


class PlainStyleGAN3(nn.Module):
    """w [N, w_dim], transform [3, 3] -> img [N, img_channels, R, R]."""

    def __init__(self, synthesis: stylegan3.SynthesisNetwork) -> None:
        super().__init__()
        self.output_scale = synthesis.output_scale
        self.input = PlainInput(synthesis.input)
        self.names = [plan.name for plan in synthesis.schedule.layers]
        for name in self.names:
            layer: Any = synthesis.get_submodule(name)
            self.add_module(name, PlainLayer(layer))

    def forward(self, w: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.input(w, transform)
        for name in self.names:
            x = self.get_submodule(name)(x, w)
        return x * self.output_scale
