"""The distribution of w, as coordinates in which it has mean 0 and variance 1 in every direction.

Components of w are correlated, and most of its variance lies in few directions. A step of equal
length in each of these coordinates is equally likely in each, so that an optimizer neither creeps
along the common directions nor leaves the distribution along the rare ones.
"""

from dataclasses import dataclass

import numpy as np
import torch

from sg3flow.precision import computing
from sg3flow.rendering.conditions import Condition, TrainingLabels, label_tensor
from sg3flow.rendering.images import RenderedGenerator, network_device

NUM_SAMPLES = 10_000
_CHUNK = 1000
_LEAST_STD = 1e-4  # of a direction, over the greatest: directions that w never takes


@dataclass(frozen=True)
class WSpace:
    """w = mean + basis u.

    Attributes:
        mean: of w, float32 [1, 1, w_dim].
        basis: float32 [w_dim, w_dim]; its columns are the principal directions of w, each as long
            as the standard deviation of w along it.
    """

    mean: torch.Tensor
    basis: torch.Tensor

    def at(self, u: torch.Tensor) -> torch.Tensor:
        """The w at coordinates u, [..., w_dim]."""
        return self.mean + u @ self.basis.T


def sample_w_space(
    G: RenderedGenerator,
    random: np.random.RandomState,
    conditions: list[Condition],
    count: int = NUM_SAMPLES,
) -> WSpace:
    """Mean and principal directions of w.

    Args:
        conditions: classes or labels of the samples, in turn; ``[None]``: unconditional.
        count: number of samples.

    Raises:
        ConfigError: a condition does not fit the network.
    """
    device, labels = network_device(G), TrainingLabels(G.c_dim)
    c = torch.cat([label_tensor(each, labels) for each in conditions])
    found = []
    for start in range(0, count, _CHUNK):
        places = torch.arange(start, min(start + _CHUNK, count))
        z = torch.from_numpy(random.standard_normal((len(places), G.z_dim)))
        with torch.no_grad(), computing():
            ws = G.mapping(z.to(device, torch.float32), c[places % len(c)].to(device))
        found.append(ws[:, 0].double().cpu())
    samples = torch.cat(found)
    mean = samples.mean(dim=0, keepdim=True)
    away = samples - mean
    variances, directions = torch.linalg.eigh(away.T @ away / count)
    stds = variances.clamp_min(0).sqrt()
    basis = directions * stds.clamp_min(_LEAST_STD * stds.max())
    return WSpace(mean[None].float().to(device), basis.float().to(device))
