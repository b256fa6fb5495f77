"""The pictures a generator is judged by: the same for a seed, whatever the batch."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from sg3flow.errors import MetricError
from sg3flow.networks.pictures import to_uint8

_CHUNK = 1024  # latents a draw; part of what a seed means


class Generator(Protocol):
    """What the metrics use of a generator network."""

    z_dim: int
    c_dim: int
    img_resolution: int
    img_channels: int
    mapping: Callable[..., torch.Tensor]
    synthesis: Callable[..., torch.Tensor]

    def __call__(
        self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float, noise_mode: str
    ) -> torch.Tensor:
        """Pictures float32 ``[N, C, H, W]`` in [-1, 1]."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The weights."""
        ...


class LabelSource(Protocol):
    """The labels of a training set, ``label(i)`` float32 ``[label_dim]``."""

    num_images: int
    label_dim: int

    def label(self, index: int) -> np.ndarray:
        """The label of one item."""
        ...


def latent_batches(
    G: Generator, training_set: LabelSource, num_images: int, batch: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs of ``num_images`` pictures: ``z`` from the seed, ``c`` of random training items.

    They are drawn in chunks of a fixed size, so that picture ``i`` depends on neither the batch
    nor the number of pictures. A network without labels gets ``c`` of ``[N, 0]``.

    Raises:
        MetricError: the network wants labels of another length than the training set's.
    """
    if G.c_dim not in (0, training_set.label_dim):
        raise MetricError(
            f"the network wants labels of length {G.c_dim}, the data has {training_set.label_dim}; "
            "give the set that it was trained on"
        )
    device = next(G.parameters()).device
    random = torch.Generator().manual_seed(seed)
    for start in range(0, num_images, _CHUNK):
        z = torch.randn(_CHUNK, G.z_dim, generator=random)
        items = torch.randint(training_set.num_images, (_CHUNK,), generator=random)
        end = min(num_images - start, _CHUNK)
        for first in range(0, end, batch):
            part = slice(first, min(first + batch, end))
            c = _labels(training_set, items[part], G.c_dim)
            yield z[part].to(device), c.to(device)


def _labels(training_set: LabelSource, items: torch.Tensor, c_dim: int) -> torch.Tensor:
    if c_dim == 0:
        return torch.zeros(len(items), 0)
    return torch.from_numpy(np.stack([training_set.label(i) for i in items.tolist()]))


@torch.no_grad()
def draw_pictures(G: Generator, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 ``[N, C, H, W]``, untruncated and with constant noise.

    Raises:
        MetricError: a pixel is not finite.
    """
    img = G(z, c, truncation_psi=1, noise_mode="const")
    if not torch.isfinite(img).all():
        raise MetricError("the network draws pictures with values that are not finite")
    return to_uint8(img)
