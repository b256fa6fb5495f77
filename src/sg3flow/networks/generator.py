"""What both generators share: a mapping and a synthesis network behind one call."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sg3flow.networks.mapping import MappingNetwork


class Generator(nn.Module):
    """z, c -> ws -> img; a subclass names its synthesis network and the depth of its mapping.

    Args:
        mapping_kwargs: arguments of `MappingNetwork`.
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
            **synthesis_kwargs,
        }
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        # synthesis first: the order decides which initial weights a seed gives
        synthesis = self.synthesis_type(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.synthesis, self.num_ws = synthesis, int(synthesis.num_ws)
        settings = {"num_layers": self.mapping_layers, **(mapping_kwargs or {})}
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **settings)

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
