"""The table of detectors: networks that turn an image of any size into a vector."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from sg3flow.metrics.features import FeatureExtractor, RandomFeatures
from sg3flow.metrics.features.clip import ClipFeatures
from sg3flow.metrics.features.dinov2 import DinoBaseFeatures, DinoLargeFeatures
from sg3flow.metrics.features.inception import InceptionFeatures
from sg3flow.metrics.features.input_rules import INPUT_RULES, SIDE
from sg3flow.metrics.features.vgg import VGGFeatures


@dataclass(frozen=True)
class Detector:
    """A detector.

    Attributes:
        load: gives the extractor on a device; raises a MetricError if weights are not available.
        num_features: length of a vector.
        input_size: side in pixels of what the network sees; images are resized to it.
    """

    load: Callable[[torch.device], FeatureExtractor]
    num_features: int
    input_size: int


# By the name in `Metric.detector`. Those of Inception differ in the rule for its input.
DETECTORS: dict[str, Detector] = {
    **{
        name: Detector(partial(InceptionFeatures, rule=rule), 2048, SIDE)
        for name, rule in INPUT_RULES.items()
    },
    "vgg16": Detector(VGGFeatures, 4096, 224),
    "random": Detector(RandomFeatures, 254, 64),
    "dinov2": Detector(DinoLargeFeatures, 1024, 224),
    "dinov2_b": Detector(DinoBaseFeatures, 768, 224),
    "clip": Detector(ClipFeatures, 768, 336),
}
