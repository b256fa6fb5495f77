"""The mapping network: latent z and label c to one w for each layer (Karras et al. 2019)."""

import torch
from torch import nn

from sg3flow import processes
from sg3flow.networks.layers import FullyConnectedLayer, normalize_2nd_moment


class MappingNetwork(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim]; with `num_ws` None, [N, w_dim].

    Args:
        num_ws: how often w is repeated; None (the discriminator) keeps one and no average.
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
        if z_dim + c_dim < 1 or num_layers < 1:
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
        """Computes ws; the first `truncation_cutoff` (None: all) are pulled towards `w_avg`."""
        x = self._input(z, c)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        if self.num_ws is None:
            return x
        if update_emas:
            mean = processes.average(x.detach().mean(dim=0))
            self.w_avg.copy_(mean.lerp(self.w_avg, self.w_avg_beta))
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)  # [N, num_ws, w_dim]
        if truncation_psi != 1:
            cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
            near = self.w_avg.lerp(ws[:, :cutoff], truncation_psi)
            ws = torch.cat([near, ws[:, cutoff:]], dim=1)
        return ws

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
