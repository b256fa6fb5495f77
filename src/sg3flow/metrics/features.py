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


def load_extractor(detector: str, device: torch.device, resolution: int) -> FeatureExtractor:
    """The extractor of a name that ``Metric.detector`` gives.

    Args:
        detector: ``inception``, ``vgg16``, ``random`` or ``patches``.
        device: where features are computed.
        resolution: side of the pictures, where they have one.

    Raises:
        MetricError: the network's weights cannot be had, or pictures of that side do not suit.
    """
    if detector == "inception":
        from sg3flow.metrics.inception import InceptionFeatures

        return InceptionFeatures(device)
    if detector == "vgg16":
        from sg3flow.metrics.vgg import VGGFeatures

        return VGGFeatures(device)
    if detector == "patches":
        from sg3flow.metrics.sliced_wasserstein import PatchFeatures

        return PatchFeatures(resolution, device)
    if detector == "random":
        from sg3flow.metrics.random_features import RandomFeatures

        return RandomFeatures(device)
    raise MetricError(f"there is no detector '{detector}'")


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Check pictures uint8 ``[N, 1 or 3, H, W]`` and repeat grey to three channels.

    Raises:
        MetricError: another shape or type.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        found = f"{images.dtype} {list(images.shape)}"
        raise MetricError(f"pictures uint8 [N, 1 or 3, H, W] were expected, not {found}")
    return images.expand(-1, 3, -1, -1)
