"""What a metric asks of a feature extractor, and the way to one by name."""

from typing import Protocol

import torch

from sg3flow.errors import MetricError


class FeatureExtractor(Protocol):
    """Turns pictures into feature vectors; two extractors of one ``digest`` give the same.

    Attributes:
        name: of the network, for reports.
        digest: SHA-256 of what decides the features: weights, and rules where they are ours.
        num_features: length F of a vector.
        resize: how pictures come to the network's size, in words.
    """

    name: str
    digest: str
    num_features: int
    resize: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Features float32 ``[N, F]`` of pictures uint8 ``[N, C, H, W]``; C is 1 or 3."""
        ...


def load_extractor(kind: str, device: torch.device) -> FeatureExtractor:
    """The extractor behind a kind of metric: ``fid`` or ``fd_random``.

    Raises:
        MetricError: the network's weights cannot be had.
    """
    if kind == "fid":
        from sg3flow.metrics.inception import InceptionFeatures

        return InceptionFeatures(device)
    if kind == "fd_random":
        from sg3flow.metrics.random_features import RandomFeatures

        return RandomFeatures(device)
    raise MetricError(f"no feature extractor belongs to '{kind}'")


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Check pictures uint8 ``[N, 1 or 3, H, W]`` and repeat grey to three channels.

    Raises:
        MetricError: another shape or type.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        found = f"{images.dtype} {list(images.shape)}"
        raise MetricError(f"pictures uint8 [N, 1 or 3, H, W] were expected, not {found}")
    return images.expand(-1, 3, -1, -1)
