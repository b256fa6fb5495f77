"""What all networks share: layers with equalized learning rate, mapping network, generator base."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sg3flow import distributed
from sg3flow.errors import cut
from sg3flow.networks.equalized import scaled_linear
from sg3flow.ops import bias_act
from sg3flow.ops.backend import has_fused_forms


class FullyConnectedLayer(nn.Module):
    """Linear layer with equalized learning rate (Karras et al. 2018, Sec. 4.1).

    Weights are stored with unit variance (over `lr_multiplier`) and scaled at run time.
    """

    bias: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        bias: bool = True,
        lr_multiplier: float = 1,
        weight_init: float = 1,
        bias_init: float | Sequence[float] = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        scale = weight_init / lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * scale)
        start = torch.as_tensor(bias_init, dtype=torch.float32).expand(out_features)
        self.bias = nn.Parameter(start / lr_multiplier) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] -> [N, out_features]."""
        if has_fused_forms(x.device) and x.dtype == self.weight.dtype:
            return self._scaled(x)
        w = self.weight.to(x.dtype) * self.weight_gain
        b = None if self.bias is None else self.bias.to(x.dtype) * self.bias_gain
        if self.activation == "linear" and b is not None:
            return torch.addmm(b, x, w.t())
        return bias_act(x @ w.t(), b, act=self.activation)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        """The same by products with a factor, in fewer launches."""
        if self.activation == "linear" and self.bias is not None:
            return scaled_linear(x, self.weight, self.bias, self.weight_gain, self.bias_gain)
        b = None if self.bias is None else self.bias * self.bias_gain
        y = scaled_linear(x, self.weight, None, self.weight_gain, 1)
        return bias_act(y, b, act=self.activation)


def normalize_2nd_moment(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """`x` scaled to unit mean square along `dim`."""
    return x * (x.square().mean(dim=dim, keepdim=True) + 1e-8).rsqrt()


def mean_square(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mean of the squares of `x`, computed in `dtype`: [].

    On a GPU in one pass over `x`; squares in another dtype would be written to memory and read.
    """
    if has_fused_forms(x.device):
        norm: torch.Tensor = torch.linalg.vector_norm(x, dtype=dtype)
        return norm.square() / x.numel()
    return x.to(dtype).square().mean()


def minibatch_std(x: torch.Tensor, group_size: int | None, num_channels: int) -> torch.Tensor:
    """Appends the standard deviation over groups of samples (Karras et al. 2018, Sec. 3).

    The samples of a group are N / group apart in the batch; `group_size` None: the whole batch.

    Args:
        x: [N, C, H, W]; N a multiple of min(group_size, N).

    Returns:
        [N, C + num_channels, H, W].
    """
    n, c, h, w = x.shape
    group = n if group_size is None else min(group_size, n)
    if group < 1 or n % group:
        raise ValueError(
            f"minibatch std: {n} images do not divide into groups of {group}; "
            "use a batch that is a multiple of mbstd_group_size"
        )
    y = x.reshape(group, n // group, num_channels, c // num_channels, h, w)
    std = (y.var(dim=0, unbiased=False) + 1e-8).sqrt()
    std = std.mean(dim=(2, 3, 4))  # [N / group, num_channels]
    extra = std.reshape(-1, num_channels, 1, 1).repeat(group, 1, h, w)
    return torch.cat([x, extra], dim=1)


def check_resolution(network: str, resolution: int, smallest: int) -> None:
    """Raises ValueError unless `resolution` is a power of two of at least `smallest`."""
    if resolution < smallest or resolution & (resolution - 1):
        raise ValueError(
            f"{network}: img_resolution must be a power of two of at least {smallest}, "
            f"not {resolution}"
        )


def check_channels(network: str, channels: int, img_resolution: int) -> None:
    """Raises ValueError if a layer would have no channels."""
    if channels < 1:
        raise ValueError(
            f"{network}: a layer would have {channels} channels: channel_base, channel_max or "
            f"img_channels is too small for {img_resolution} pixels"
        )


def half_precision_from(img_resolution: int, num_fp16_res: int) -> int:
    """The smallest resolution whose block runs in half precision on a GPU."""
    return int(max(2 ** (math.log2(img_resolution) + 1 - num_fp16_res), 8))


_HALF_DEVICES = ("cuda",)


def has_half(device: torch.device) -> bool:
    """Whether layers with half precision use it on a device."""
    return device.type in _HALF_DEVICES


HALF_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def set_half_dtype(network: nn.Module, name: str) -> None:
    """Set the type of the layers that run in half precision on a GPU.

    bfloat16 has the range of float32, so nothing overflows, and three digits instead of the four of
    float16. Weights and snapshots are float32 in both cases.

    Raises:
        ValueError: ``name`` is none of ``HALF_DTYPES``.
    """
    if name not in HALF_DTYPES:
        raise ValueError(f"half_dtype must be float16 or bfloat16, not {cut(str(name), 40)}")
    for module in network.modules():
        if hasattr(module, "half_dtype"):
            setattr(module, "half_dtype", HALF_DTYPES[name])  # noqa: B010


class MappingNetwork(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim]; with `num_ws` None, [N, w_dim].

    Args:
        num_ws: how often w is repeated; None (the discriminator): one w, and no average.
        num_layers, layer_features, embed_features: None means `w_dim` for the widths.
        lr_multiplier: learning-rate factor of the layers.
        w_avg_beta: decay of `w_avg`, the running mean of w that truncation moves towards.
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 2,
        embed_features: int | None = None,
        layer_features: int | None = None,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
    ) -> None:
        super().__init__()
        if z_dim + c_dim < 1 or min(z_dim, c_dim) < 0 or num_layers < 1:
            raise ValueError("a mapping network needs an input (z_dim or c_dim) and a layer")
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        embed = (embed_features or w_dim) if c_dim else 0
        widths = [z_dim + embed, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, embed)
        for i in range(num_layers):
            layer = FullyConnectedLayer(
                widths[i], widths[i + 1], activation="lrelu", lr_multiplier=lr_multiplier
            )
            self.add_module(f"fc{i}", layer)
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """Computes ws; truncation moves the first `truncation_cutoff` (None: all) to `w_avg`."""
        x = self._input(z, c)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if update_emas:  # no result of a training step needs w_avg
            distributed.sum_later(x.detach().mean(dim=0), self._move_average)
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)  # [N, num_ws, w_dim]
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            near = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([near, ws[:, cutoff:]], dim=1)
        return ws

    def _move_average(self, total: torch.Tensor) -> None:
        """Move ``w_avg`` by the sum of the processes' mean w."""
        mean = total / distributed.world_size() if distributed.world_size() > 1 else total
        self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))

    def _input(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        parts = []
        if self.z_dim:
            parts.append(normalize_2nd_moment(self._checked("z", z, self.z_dim)))
        if self.c_dim:
            parts.append(normalize_2nd_moment(self.embed(self._checked("c", c, self.c_dim))))
        return torch.cat(parts, dim=1)

    def _checked(self, name: str, x: torch.Tensor | None, size: int) -> torch.Tensor:
        if x is None or x.ndim != 2 or x.shape[1] != size:
            found = "nothing" if x is None else list(x.shape)
            raise ValueError(f"mapping network: {name} must be [N, {size}], found {found}")
        return x.to(next(self.parameters()).dtype)


class Generator(nn.Module):
    """z, c -> ws -> img; a subclass sets its synthesis network and its number of mapping layers.

    Args:
        mapping_kwargs: arguments of `MappingNetwork`.
        half_dtype: of the layers in half precision; None: float16, as in files without it.
        synthesis_kwargs: arguments of the subclass's synthesis network.
    """

    synthesis_type: type[Any]
    mapping_layers: int

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        half_dtype: str | None = None,
        **synthesis_kwargs: Any,
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = {
            "z_dim": z_dim,
            "c_dim": c_dim,
            "w_dim": w_dim,
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "mapping_kwargs": dict(mapping_kwargs or {}),
            **({} if half_dtype is None else {"half_dtype": half_dtype}),
            **synthesis_kwargs,
        }
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        # Synthesis first: the order decides the initial weights of a seed.
        synthesis = self.synthesis_type(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.synthesis, self.num_ws = synthesis, int(synthesis.num_ws)
        settings = {"num_layers": self.mapping_layers, **(mapping_kwargs or {})}
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **settings)
        if half_dtype is not None:
            set_half_dtype(self, half_dtype)

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        noise_mode: str = "const",
        force_fp32: bool = False,
        update_emas: bool = False,
    ) -> torch.Tensor:
        """z [N, z_dim], c [N, c_dim] -> float32 images [N, C, R, R], nominally in [-1, 1]."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas=update_emas)
        img: torch.Tensor = self.synthesis(
            ws, noise_mode=noise_mode, force_fp32=force_fp32, update_emas=update_emas
        )
        return img


def to_uint8(img: torch.Tensor) -> torch.Tensor:
    """Float [N, C, H, W] in [-1, 1] to uint8, clamped and truncated as the public tools do.

    The values must be finite.
    """
    return (img.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)
