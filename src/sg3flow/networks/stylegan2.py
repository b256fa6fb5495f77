"""The generator of StyleGAN2 with skip connections (Karras et al. 2020)."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from sg3flow import distributed
from sg3flow.networks.layers import (
    FullyConnectedLayer,
    Generator,
    check_channels,
    check_resolution,
    half_precision_from,
    has_half,
)
from sg3flow.ops import bias_act, modulated_conv2d, setup_filter, upsample2d

NOISE_MODES = ("const", "random", "none")


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, leaky ReLU: [N, in, R/up, R/up] -> [N, out, R, R]."""

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: int,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.conv_clamp = resolution, up, conv_clamp
        self.use_noise = use_noise
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise_mode: str) -> torch.Tensor:
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            padding=1,
            f=self.resample_filter,
            up=self.up,
            normalize="max",
        )
        noise = self._noise(len(x), noise_mode)
        if noise is not None:
            x = x + noise.to(x.dtype)
        return bias_act(x, self.bias.to(x.dtype), act="lrelu", clamp=self.conv_clamp)

    def _noise(self, batch: int, noise_mode: str) -> torch.Tensor | None:
        if not self.use_noise or noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = (batch, 1, self.resolution, self.resolution)
        noise = distributed.randn(shape, device=self.noise_const.device)
        return noise.to(self.noise_const.dtype) * self.noise_strength


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution to the image channels, without demodulation."""

    def __init__(
        self, in_channels: int, img_channels: int, w_dim: int, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        x = modulated_conv2d(x, self.weight, styles, demodulate=False)
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution; the first block has the learned input `const`."""

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        use_fp16: bool,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        use_noise: bool,
    ) -> None:
        super().__init__()
        self.half_dtype = torch.float16
        self.use_fp16, self.num_conv = use_fp16, 2 if in_channels else 1
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def conv(channels: int, up: int) -> SynthesisLayer:
            return SynthesisLayer(
                channels,
                out_channels,
                w_dim,
                resolution,
                up,
                resample_filter,
                conv_clamp,
                use_noise,
            )

        if in_channels:
            self.conv0 = conv(in_channels, up=2)
        else:
            self.const = nn.Parameter(torch.randn(out_channels, resolution, resolution))
        self.conv1 = conv(out_channels, up=1)
        self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp)

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        noise_mode: str,
        force_fp32: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`ws` [N, num_conv + 1, w_dim]; returns the features and the image so far (float32)."""
        half = self.use_fp16 and not force_fp32 and has_half(ws.device)
        dtype = self.half_dtype if half else ws.dtype
        styles = iter(ws.unbind(dim=1))
        if x is None:
            x = self.const.to(dtype).expand(len(ws), -1, -1, -1)
        else:
            x = self.conv0(x.to(dtype), next(styles), noise_mode)
        x = self.conv1(x, next(styles), noise_mode)
        rgb = self.torgb(x, next(styles)).to(ws.dtype)
        if img is not None:
            rgb = rgb + upsample2d(img, self.resample_filter)
        return x, rgb


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> img [N, img_channels, R, R].

    Args:
        channel_base, channel_max: a block has min(channel_base // resolution, channel_max).
        num_fp16_res: how many of the highest resolutions run in half precision on a GPU.
        resample_filter: taps of the low-pass filter for changes of resolution.
        conv_clamp: largest magnitude after each layer, or None.
        use_noise: whether layers add noise.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "skip",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = 256,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        check_resolution("StyleGAN2", img_resolution, smallest=8)
        if architecture != "skip":
            raise ValueError(f"StyleGAN2: architecture '{architecture}' is not 'skip'")
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        half_from = half_precision_from(img_resolution, num_fp16_res)
        self.resolutions = [2**i for i in range(2, img_resolution.bit_length())]
        in_channels, num_conv = 0, 0
        for res in self.resolutions:
            channels = min(channel_base // res, channel_max)
            check_channels("StyleGAN2", channels, img_resolution)
            block = SynthesisBlock(
                in_channels,
                channels,
                w_dim,
                res,
                img_channels,
                use_fp16=res >= half_from,
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                use_noise=use_noise,
            )
            self.add_module(f"b{res}", block)
            in_channels, num_conv = channels, num_conv + block.num_conv
        self.num_ws = num_conv + 1

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "const",
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Computes float32 images; `update_emas` has no effect, only StyleGAN3 uses it."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be [N, {self.num_ws}, {self.w_dim}], not {list(ws.shape)}")
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {NOISE_MODES}, not '{noise_mode}'")
        ws = ws.to(next(self.parameters()).dtype)
        x: torch.Tensor | None = None
        img: torch.Tensor | None = None
        start = 0
        for res in self.resolutions:
            block = self.get_submodule(f"b{res}")
            count = 1 if res == 4 else 2
            # torgb shares its w with the first convolution of the next block
            part = ws[:, start : start + count + 1]
            x, img = block(x, img, part, noise_mode=noise_mode, force_fp32=force_fp32)
            start += count
        assert img is not None
        return img


class StyleGAN2Generator(Generator):
    """The skip generator of Karras et al. 2020, "Analyzing and Improving"."""

    synthesis_type = SynthesisNetwork
    mapping_layers = 8
