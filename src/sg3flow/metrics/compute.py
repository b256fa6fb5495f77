"""From features to numbers: what each kind of metric makes of what its detector saw."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.distances import frechet_estimate, kernel_estimate
from sg3flow.metrics.estimates import Estimate
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.features.inception import InceptionFeatures, inception_score
from sg3flow.metrics.names import Metric
from sg3flow.metrics.neighborhoods import (
    Pair,
    density_coverage_estimates,
    memorization,
    precision_recall_estimates,
)
from sg3flow.metrics.reference_set import Reference
from sg3flow.metrics.sliced_wasserstein import PatchFeatures, sliced_wasserstein

EVERYTHING = 1 << 40
# Most reference pictures that a metric takes; the others take all.
_LIMITS = {"pr": 200_000, "pr_random": 200_000, "dc": 200_000, "dc_random": 200_000, "swd": 8192}
_KID_SUBSETS, _KID_SIZE = 100, 1000
_PAIRS = 8

_JACKKNIFE = "jackknife over 10 blocks of generated pictures"
_MEAN = "of the mean over generated pictures"
_ERROR_RULES = {
    "fid": _JACKKNIFE,
    "fd_random": _JACKKNIFE,
    "kid": "first-order variance of the U-statistic over generated pictures and subsets",
    "kid_random": "first-order variance of the U-statistic over generated pictures and subsets",
    "is": "of the mean over 10 splits",
    "swd": "of the mean over 10 disjoint groups of generated pictures",
    "ppl2_wend": "of the mean over the pairs kept",
    "pr_precision": _MEAN,
    "pr_recall": f"{_JACKKNIFE}, balls as they are",
    "dc_density": _MEAN,
    "dc_coverage": _JACKKNIFE,
    "mem": _MEAN,
    "mem_random": _MEAN,
    "eq": "of the ratio of sums over motions, linearised",
}


@dataclass(frozen=True)
class MetricOutcome:
    """The estimates of a metric, one an output, and the closest pairs where it looks for them."""

    estimates: list[Estimate]
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class MetricInputs:
    """What a metric of pictures has to judge by.

    Attributes:
        generated: features ``[N, F]``.
        reference: None for metrics that compare with nothing.
        extractor: the detector.
        seed: of what is drawn.
        device: where to compute.
    """

    generated: NDArray[np.float32]
    reference: Reference | None
    extractor: FeatureExtractor
    seed: int
    device: torch.device


def compute_metric(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    """Judge generated pictures by their features.

    Raises:
        MetricError: too few pictures for this metric.
    """
    return _JUDGES[_base(metric)](metric, evidence)


def prepare_reference(metric: Metric, reference: Reference) -> None:
    """Have a reference compute what ``compute_metric`` will ask of it.

    Raises:
        MetricError: features that are not finite.
        DataError: a picture cannot be read.
    """
    if wants_only_stats(metric):
        reference.prepare_stats()
    else:
        reference.prepare_features(reference_limit(metric))


def wants_only_stats(metric: Metric) -> bool:
    """Whether mean and covariance of a reference are all that a metric asks of it."""
    return _base(metric) in ("fid", "fd")


def reference_limit(metric: Metric) -> int:
    """Most pictures of the reference set that a metric takes."""
    return _LIMITS.get(metric.kind, EVERYTHING)


def reference_count(metric: Metric, reference: Reference) -> int:
    """How many of them it took."""
    return reference.count(reference_limit(metric))


def error_rule(metric: Metric, output: str) -> str:
    """How the standard error of an output was estimated, in words."""
    if metric.moves_input:
        return _ERROR_RULES["eq"]
    ending = output.removeprefix(metric.name)
    return _ERROR_RULES.get(metric.kind) or _ERROR_RULES[_base(metric) + ending]


def _base(metric: Metric) -> str:
    return metric.kind.removesuffix("_random")


def _frechet(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    return MetricOutcome([frechet_estimate(evidence.generated, _reference(evidence).stats())])


def _kernel(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    real = _reference(evidence).features(reference_limit(metric)).numpy()
    estimate = kernel_estimate(
        real, evidence.generated, _KID_SUBSETS, _KID_SIZE, seed=evidence.seed
    )
    return MetricOutcome([estimate])


def _score(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    extractor = evidence.extractor
    assert isinstance(extractor, InceptionFeatures)
    return MetricOutcome([inception_score(extractor.probabilities(_tensor(evidence)))])


def _neighborhood(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    reference, limit = _reference(evidence), reference_limit(metric)
    estimates = precision_recall_estimates if _base(metric) == "pr" else density_coverage_estimates
    found = estimates(
        reference.features(limit),
        _tensor(evidence),
        metric.neighbor,
        real_radii=reference.radii(limit, metric.neighbor),
        device=evidence.device,
    )
    return MetricOutcome(list(found))


def _memory(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    reference, limit = _reference(evidence), reference_limit(metric)
    found = memorization(
        reference.features(limit),
        _tensor(evidence),
        _PAIRS,
        real_radii=reference.radii(limit, 1),
        device=evidence.device,
    )
    return MetricOutcome([found.authentic, found.distance], found.closest)


def _sliced(metric: Metric, evidence: MetricInputs) -> MetricOutcome:
    real, extractor = _reference(evidence).features(reference_limit(metric)), evidence.extractor
    assert isinstance(extractor, PatchFeatures)
    estimate = sliced_wasserstein(
        real, _tensor(evidence), extractor.num_levels, evidence.seed, evidence.device
    )
    return MetricOutcome([estimate])


def _reference(evidence: MetricInputs) -> Reference:
    assert evidence.reference is not None
    return evidence.reference


def _tensor(evidence: MetricInputs) -> torch.Tensor:
    return torch.from_numpy(evidence.generated)


_JUDGES: dict[str, Callable[[Metric, MetricInputs], MetricOutcome]] = {
    "fid": _frechet,
    "fd": _frechet,
    "kid": _kernel,
    "is": _score,
    "pr": _neighborhood,
    "dc": _neighborhood,
    "mem": _memory,
    "swd": _sliced,
}


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
        from sg3flow.metrics.features.inception import InceptionFeatures

        return InceptionFeatures(device)
    if detector == "vgg16":
        from sg3flow.metrics.features.vgg import VGGFeatures

        return VGGFeatures(device)
    if detector == "patches":
        from sg3flow.metrics.sliced_wasserstein import PatchFeatures

        return PatchFeatures(resolution, device)
    if detector == "random":
        from sg3flow.metrics.features import RandomFeatures

        return RandomFeatures(device)
    raise MetricError(f"there is no detector '{detector}'")
