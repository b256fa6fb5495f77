"""The alias-free generator of StyleGAN3 (Karras et al. 2021) and the transform of its input.

Sections named here are those of that paper.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sg3flow import distributed
from sg3flow.errors import ConfigError
from sg3flow.networks.layer_schedule import (
    LayerPlan,
    Schedule,
    ScheduleArguments,
    lowpass_filter,
    plan_layers,
)
from sg3flow.networks.layers import FullyConnectedLayer, Generator, has_half, mean_square
from sg3flow.ops import filtered_lrelu, modulated_conv2d
from sg3flow.ops.backend import has_fused_forms
from sg3flow.ops.filtered_lrelu import filtered_lrelu_squares


def motion_matrix(shift: tuple[float, float], angle: float) -> torch.Tensor:
    """The input transform, float64 [3, 3], that rotates and then shifts the generated image.

    The input is sampled at transformed positions: the matrix is the inverse of the motion.

    Args:
        shift: of the image in image widths, (x, y).
        angle: of the image in radians.
    """
    c, s = math.cos(angle), math.sin(angle)
    motion = [[c, s, shift[0]], [-s, c, shift[1]], [0.0, 0.0, 1.0]]
    inverse: torch.Tensor = torch.linalg.inv(torch.tensor(motion, dtype=torch.float64))
    return inverse


def input_transform(G: Any) -> torch.Tensor | None:
    """The input transform buffer [3, 3] of a StyleGAN3 generator; None for other networks."""
    transform = getattr(getattr(G.synthesis, "input", None), "transform", None)
    return transform if isinstance(transform, torch.Tensor) else None


@contextmanager
def placed(G: Any, matrix: torch.Tensor) -> Iterator[None]:
    """Set the input transform [3, 3] of a generator while the block runs, then restore it.

    The transform is state of the network: not for two threads at the same time.

    Raises:
        ConfigError: the network has no input transform.
    """
    transform = input_transform(G)
    if transform is None:
        raise ConfigError("this network cannot translate or rotate: only StyleGAN3 can")
    own = transform.clone()
    try:
        transform.copy_(matrix)
        yield
    finally:
        transform.copy_(own)


class SynthesisInput(nn.Module):
    """Fourier features on a grid transformed by w and by the user's `transform` (App. F, Sec. 3.2).

    `transform` [3, 3] is the inverse of the image transform, by default the identity.
    """

    freqs: torch.Tensor
    phases: torch.Tensor
    transform: torch.Tensor

    def __init__(self, w_dim: int, schedule: Schedule) -> None:
        super().__init__()
        channels = schedule.input_channels
        self.size = schedule.input_size
        self.sampling_rate, self.bandwidth = schedule.input_sampling_rate, schedule.input_bandwidth
        freqs = torch.randn(channels, 2)
        radii = freqs.square().sum(dim=1, keepdim=True).sqrt()
        # The radii are mapped so that the frequencies are uniform on a disc.
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * self.bandwidth
        phases = torch.rand(channels) - 0.5
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnectedLayer(w_dim, 4, weight_init=0, bias_init=[1, 0, 0, 0])
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", phases)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """[N, w_dim] -> [N, C0, size, size]."""
        m: torch.Tensor = self._transform_of(w)
        phases = self.phases + (self.freqs @ m[:, :2, 2:]).squeeze(2)  # [N, C0]
        freqs = self.freqs @ m[:, :2, :2]  # [N, C0, 2]
        # Frequencies beyond the bandwidth fade out, to 0 at Nyquist.
        room = self.sampling_rate / 2 - self.bandwidth
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / room).clamp(0, 1)
        scale = 0.5 * self.size / self.sampling_rate
        theta = torch.eye(2, 3, device=w.device, dtype=w.dtype) * scale
        grid = F.affine_grid(theta[None], [1, 1, self.size, self.size], align_corners=False)
        angles = _angles(grid.reshape(1, -1, 2), freqs.transpose(1, 2), phases[:, None])
        x: torch.Tensor = torch.sin(angles) * amplitudes[:, None]  # [N, H*W, C0]
        x = x @ (self.weight / math.sqrt(self.weight.shape[1])).t()
        x = x.transpose(1, 2)  # [N, C0, H*W]
        return x.reshape(*x.shape[:2], self.size, self.size)

    def _transform_of(self, w: torch.Tensor) -> torch.Tensor:
        """[N, 3, 3]: the rotation and translation of w, after the user's transform."""
        t = self.affine(w)  # [N, 4]: (r_c, r_s, t_x, t_y)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        rc, rs, tx, ty = t.unbind(dim=1)
        zero, one = torch.zeros_like(rc), torch.ones_like(rc)
        rotation = torch.stack([rc, -rs, zero, rs, rc, zero, zero, zero, one], dim=1)
        translation = torch.stack([one, zero, -tx, zero, one, -ty, zero, zero, one], dim=1)
        return rotation.view(-1, 3, 3) @ translation.view(-1, 3, 3) @ self.transform


def _angles(grid: torch.Tensor, freqs: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """2 pi (grid @ freqs + phases): [1, H*W, 2], [N, 2, C0] and [N, 1, C0] to [N, H*W, C0]."""
    turn = 2 * math.pi
    if has_fused_forms(grid.device):
        positions = grid.expand(len(freqs), -1, -1)
        angles: torch.Tensor = torch.baddbmm(phases, positions, freqs, beta=turn, alpha=turn)
        return angles
    return (grid @ freqs + phases) * turn


class SynthesisLayer(nn.Module):
    """Modulated convolution and the alias-free nonlinearity (Sec. 3.2, App. C)."""

    magnitude_ema: torch.Tensor
    up_filter: torch.Tensor | None
    down_filter: torch.Tensor | None

    def __init__(
        self, w_dim: int, plan: LayerPlan, conv_kernel: int, conv_clamp: float | None, beta: float
    ) -> None:
        super().__init__()
        self.plan, self.conv_clamp, self.magnitude_ema_beta = plan, conv_clamp, beta
        self.half_dtype = torch.float16
        kernel = 1 if plan.is_torgb else conv_kernel
        self.affine = FullyConnectedLayer(w_dim, plan.in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(plan.out_channels, plan.in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(plan.out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        up_filter = lowpass_filter(
            plan.up_taps, plan.in_cutoff, plan.in_half_width * 2, plan.tmp_sampling_rate
        )
        down_filter = lowpass_filter(
            plan.down_taps,
            plan.out_cutoff,
            plan.out_half_width * 2,
            plan.tmp_sampling_rate,
            radial=plan.down_radial,
        )
        self.register_buffer("up_filter", up_filter)
        self.register_buffer("down_filter", down_filter)

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """[N, in_channels, in_size, in_size], [N, w_dim] -> [N, out_channels, out_size, ...]."""
        if update_emas:
            return self.updating(x, w, force_fp32, None)[0]
        return filtered_lrelu(**self._convolved(x, w, force_fp32))

    def updating(
        self, x: torch.Tensor, w: torch.Tensor, force_fp32: bool, square: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `forward`, and updates the moving average of the input's magnitude.

        Args:
            square: the mean square of `x`, where it is known.

        Returns:
            The result, and its mean square where that costs no other pass over it, else None.
        """
        ema = self.magnitude_ema
        if square is None:
            square = mean_square(x.detach(), ema.dtype)
        torch.lerp(distributed.all_reduce_mean(square), ema, self.magnitude_ema_beta, out=ema)
        y, squares = filtered_lrelu_squares(**self._convolved(x, w, force_fp32))
        return y, None if squares is None else squares.to(ema.dtype) / y.numel()

    def _convolved(self, x: torch.Tensor, w: torch.Tensor, force_fp32: bool) -> dict[str, Any]:
        """The arguments of the nonlinearity: the convolved input, filters and numbers."""
        half = self.plan.use_fp16 and not force_fp32 and has_half(x.device)
        x = x.to(self.half_dtype if half else self.weight.dtype)
        x = self._convolve(x, self.affine(w), self.magnitude_ema.rsqrt())
        is_torgb = self.plan.is_torgb
        return {
            "x": x,
            "fu": self.up_filter,
            "fd": self.down_filter,
            "b": self.bias.to(x.dtype),
            "up": self.plan.up_factor,
            "down": self.plan.down_factor,
            "padding": self.plan.padding,
            "gain": 1 if is_torgb else math.sqrt(2),
            "slope": 1 if is_torgb else 0.2,
            "clamp": self.conv_clamp,
        }

    def _convolve(
        self, x: torch.Tensor, styles: torch.Tensor, input_gain: torch.Tensor
    ) -> torch.Tensor:
        weight: torch.Tensor = self.weight
        k = weight.shape[2]
        if self.plan.is_torgb:
            styles = styles / math.sqrt(weight.shape[1] * k * k)
            return modulated_conv2d(x, weight, styles, demodulate=False, input_gain=input_gain)
        return modulated_conv2d(
            x, weight, styles, padding=k - 1, input_gain=input_gain, normalize="rms"
        )


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> img [N, img_channels, R, R]; arguments as in `ScheduleArguments`.

    Args:
        output_scale: factor on the last layer's result.
        conv_clamp: largest magnitude after each nonlinearity, or None.
        magnitude_ema_beta: decay of each layer's running mean of squares.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        output_scale: float = 0.25,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
        **schedule_arguments: Any,
    ) -> None:
        super().__init__()
        arguments = ScheduleArguments(img_resolution, img_channels, **schedule_arguments)
        self.schedule = plan_layers(arguments)
        self.w_dim, self.num_ws = w_dim, self.schedule.num_ws
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.output_scale = output_scale
        self.input = SynthesisInput(w_dim, self.schedule)
        for plan in self.schedule.layers:
            layer = SynthesisLayer(
                w_dim, plan, arguments.conv_kernel, conv_clamp, magnitude_ema_beta
            )
            self.add_module(plan.name, layer)

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "const",
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Computes float32 images; `noise_mode` has no effect, only StyleGAN2 uses it."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}")
        first, *others = ws.to(self.input.weight.dtype).unbind(dim=1)
        x: torch.Tensor = self.input(first)
        square = None
        for plan, w in zip(self.schedule.layers, others, strict=True):
            layer: Any = self.get_submodule(plan.name)
            if update_emas:
                x, square = layer.updating(x, w, force_fp32, square)
            else:
                x = layer(x, w, force_fp32=force_fp32)
        return x.to(first.dtype) * self.output_scale


class StyleGAN3Generator(Generator):
    """Configurations T and R; R: conv_kernel 1, use_radial_filters, doubled channels."""

    synthesis_type = SynthesisNetwork
    mapping_layers = 2
