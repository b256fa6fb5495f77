"""The residual discriminator of StyleGAN2, used by every configuration (Karras et al. 2020)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sg3flow.networks.conv_layer import Conv2dLayer, Fusion, Prepared, prepared_weights
from sg3flow.networks.layers import (
    FullyConnectedLayer,
    MappingNetwork,
    check_channels,
    check_resolution,
    half_precision_from,
    has_half,
    minibatch_std,
    set_half_dtype,
)
from sg3flow.ops import setup_filter
from sg3flow.ops.backend import has_fused_forms
from sg3flow.ops.downsample_branch import downsample_branch

_HALF_POWER = math.sqrt(0.5)  # of each branch of a residual block


class DiscriminatorBlock(nn.Module):
    """One residual block: [N, in, R, R] -> [N, out, R/2, R/2]; the first one takes the image.

    Args:
        in_channels: 0 for the first block, which has `fromrgb`.
        first_layer: number of this block's first layer, counted over the network.
        freeze_layers: layers with a smaller number are frozen (FreezeD, Mo et al. 2020).
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        img_channels: int,
        first_layer: int,
        use_fp16: bool,
        conv_clamp: float | None,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        freeze_layers: int = 0,
    ) -> None:
        super().__init__()
        self.use_fp16, self.half_dtype = use_fp16, torch.float16
        self.num_layers = 0
        self.register_buffer("resample_filter", setup_filter(resample_filter))

        def conv(inputs: int, outputs: int, kernel: int, **options: Any) -> Conv2dLayer:
            trainable = first_layer + self.num_layers >= freeze_layers
            self.num_layers += 1
            options.update(resample_filter=resample_filter, trainable=trainable)
            return Conv2dLayer(inputs, outputs, kernel, **options)

        lrelu = {"activation": "lrelu", "conv_clamp": conv_clamp}
        self.fromrgb = None if in_channels else conv(img_channels, channels, 1, **lrelu)
        self.conv0 = conv(channels, channels, 3, **lrelu)
        self.conv1 = conv(channels, out_channels, 3, down=2, **lrelu)
        self.skip = conv(channels, out_channels, 1, bias=False, down=2)

    def forward(
        self, x: torch.Tensor, force_fp32: bool = False, prepared: Prepared | None = None
    ) -> torch.Tensor:
        """`prepared`: the weights of `layers`, of this block and others; None: not yet made."""
        x = x.to(self._dtype(x.device, force_fp32))
        if has_fused_forms(x.device):
            return self._fused(x, prepared or {})
        weights = prepared or {}
        if self.fromrgb is not None:
            x = self.fromrgb(x, prepared=weights.get(self.fromrgb))
        y = self.skip(x, _HALF_POWER, weights.get(self.skip))
        x = self.conv0(x, prepared=weights.get(self.conv0))
        x = self.conv1(x, gain=_HALF_POWER, prepared=weights.get(self.conv1))
        return x + y  # type: ignore[no-any-return]

    def _fused(self, x: torch.Tensor, weights: Prepared) -> torch.Tensor:
        """The same in fewer passes over the activations."""
        if self.fromrgb is not None:
            x = self.fromrgb(x, prepared=weights.get(self.fromrgb), fusion=Fusion())
        x, small = downsample_branch(x, self.skip.resample_filter)
        y = self.skip(small, _HALF_POWER, weights.get(self.skip), is_resampled=True)
        x = self.conv0(x, 1, weights.get(self.conv0), fusion=Fusion(following=self.conv1))
        joined = Fusion(is_filtered=True, base=y)
        return self.conv1(x, _HALF_POWER, weights.get(self.conv1), fusion=joined)  # type: ignore[no-any-return]

    def layers(
        self, device: torch.device, force_fp32: bool
    ) -> list[tuple[Conv2dLayer, float, torch.dtype]]:
        """The convolutions with the gain and the dtype of each, for `prepared_weights`."""
        dtype = self._dtype(device, force_fp32)
        gains = {self.skip: _HALF_POWER, self.conv0: 1.0, self.conv1: _HALF_POWER}
        if self.fromrgb is not None:
            gains[self.fromrgb] = 1.0
        return [(layer, gain, dtype) for layer, gain in gains.items()]

    def _dtype(self, device: torch.device, force_fp32: bool) -> torch.dtype:
        half = self.use_fp16 and not force_fp32 and has_half(device)
        return self.half_dtype if half else self.conv0.weight.dtype


class DiscriminatorEpilogue(nn.Module):
    """[N, C, 4, 4] -> logits [N, 1]; labels enter by projection (Miyato & Koyama 2018).

    It always runs in full precision.
    """

    def __init__(
        self,
        channels: int,
        cmap_dim: int,
        conv_clamp: float | None,
        mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.mbstd_group_size, self.mbstd_num_channels = mbstd_group_size, mbstd_num_channels
        self.conv = Conv2dLayer(
            channels + mbstd_num_channels, channels, 3, activation="lrelu", conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(channels * 16, channels, activation="lrelu")
        self.out = FullyConnectedLayer(channels, cmap_dim or 1)

    def forward(self, x: torch.Tensor, cmap: torch.Tensor | None) -> torch.Tensor:
        x = x.to(self.fc.weight.dtype)
        if self.mbstd_num_channels > 0:
            x = minibatch_std(x, self.mbstd_group_size, self.mbstd_num_channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is None:
            return x
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)


class Discriminator(nn.Module):
    """img [N, C, R, R], c [N, c_dim] -> logits [N, 1].

    Args:
        channel_base, channel_max: a block has min(channel_base // resolution, channel_max).
        num_fp16_res: how many of the highest resolutions run in half precision on a GPU.
        cmap_dim: width of the label projection; None: the number of channels at 4x4.
        block_kwargs: `freeze_layers`, `resample_filter`.
        mapping_kwargs: arguments of `MappingNetwork`, used with labels (8 layers by default).
        epilogue_kwargs: `mbstd_group_size` (None: the whole batch), `mbstd_num_channels`.
        half_dtype: of the layers in half precision; None: float16, as in files without it.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 4,
        conv_clamp: float | None = 256,
        cmap_dim: int | None = None,
        block_kwargs: Mapping[str, Any] | None = None,
        mapping_kwargs: Mapping[str, Any] | None = None,
        epilogue_kwargs: Mapping[str, Any] | None = None,
        half_dtype: str | None = None,
    ) -> None:
        super().__init__()
        check_resolution("Discriminator", img_resolution, smallest=8)
        if architecture != "resnet":
            raise ValueError(f"Discriminator: architecture '{architecture}' is not 'resnet'")
        self.init_kwargs: dict[str, Any] = {
            "c_dim": c_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "architecture": architecture,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "num_fp16_res": num_fp16_res,
            "conv_clamp": conv_clamp,
            "cmap_dim": cmap_dim,
            "block_kwargs": dict(block_kwargs or {}),
            "mapping_kwargs": dict(mapping_kwargs or {}),
            "epilogue_kwargs": dict(epilogue_kwargs or {}),
            **({} if half_dtype is None else {"half_dtype": half_dtype}),
        }
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels

        def channels(resolution: int) -> int:
            return min(channel_base // resolution, channel_max)

        check_channels("Discriminator", channels(img_resolution), img_resolution)
        half_from, layer = half_precision_from(img_resolution, num_fp16_res), 0
        self.resolutions = [2**i for i in range(img_resolution.bit_length() - 1, 2, -1)]
        for res in self.resolutions:
            block = DiscriminatorBlock(
                0 if res == img_resolution else channels(res),
                channels(res),
                channels(res // 2),
                img_channels,
                first_layer=layer,
                use_fp16=res >= half_from,
                conv_clamp=conv_clamp,
                **(block_kwargs or {}),
            )
            self.add_module(f"b{res}", block)
            layer += block.num_layers
        cmap_dim = (channels(4) if cmap_dim is None else cmap_dim) if c_dim else 0
        if c_dim:
            settings = {"num_layers": 8, **(mapping_kwargs or {})}
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, None, **settings)
        self.b4 = DiscriminatorEpilogue(
            channels(4), cmap_dim, conv_clamp, **(epilogue_kwargs or {})
        )
        if half_dtype is not None:
            set_half_dtype(self, half_dtype)

    def forward(
        self, img: torch.Tensor, c: torch.Tensor | None, force_fp32: bool = False
    ) -> torch.Tensor:
        """The logits, float32; N must be a multiple of min(mbstd_group_size, N)."""
        wanted = (self.img_channels, self.img_resolution, self.img_resolution)
        if img.ndim != 4 or img.shape[1:] != wanted:
            raise ValueError(f"Discriminator: img must be {['N', *wanted]}, not {list(img.shape)}")
        blocks: list[Any] = [self.get_submodule(f"b{res}") for res in self.resolutions]
        prepared = None
        if has_fused_forms(img.device):
            layers = [each for block in blocks for each in block.layers(img.device, force_fp32)]
            prepared = prepared_weights(layers)
        x = img
        for block in blocks:
            x = block(x, force_fp32=force_fp32, prepared=prepared)
        cmap = self.mapping(None, c) if self.c_dim else None
        logits: torch.Tensor = self.b4(x, cmap)
        return logits
