"""From features to values: the computation of each kind of metric over images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sg3flow.errors import MetricError
from sg3flow.metrics.distances import frechet_estimate
from sg3flow.metrics.estimates import Estimate
from sg3flow.metrics.feature_likelihood import baseline_likelihood, feature_likelihood
from sg3flow.metrics.features import FeatureExtractor
from sg3flow.metrics.features.detectors import DETECTORS
from sg3flow.metrics.features.inception import InceptionFeatures, inception_score
from sg3flow.metrics.gaussian_mmd import gaussian_mmd, mean_kernel
from sg3flow.metrics.names import KINDS, Metric
from sg3flow.metrics.neighborhoods import (
    Pair,
    density_coverage_estimates,
    memorization,
    precision_recall_estimates,
)
from sg3flow.metrics.polynomial_mmd import kernel_estimate
from sg3flow.metrics.reference_set import EVERYTHING, Pictures, Reference
from sg3flow.metrics.sliced_wasserstein import PatchFeatures, sliced_wasserstein
from sg3flow.metrics.vendi import unit_rows, vendi_estimate

# Maximum number of reference images of an older name, and of other metrics; the others use all.
_OLDER_LIMIT = 50_000
_LIMITS = {"pr": 200_000, "dc": 200_000, "swd": 8192, "fld": 50_000}
_KID_SUBSETS, _KID_SIZE = 100, 1000
_TORCH_FIDELITY_SEED = 2020  # its default, which its published numbers have
_CMMD_SIGMA, _CMMD_SCALE = 10.0, 1000.0
_PAIRS = 8

_JACKKNIFE = "jackknife over 10 blocks of generated pictures"
_MEAN = "of the mean over generated pictures"
_SUBSETS = "first-order variance of the U-statistic over generated pictures and subsets"
_ERROR_RULES = {
    "fid": _JACKKNIFE,
    "kid": _SUBSETS,
    "torch_fidelity_kid": _SUBSETS,
    "cmmd": "first-order variance over generated pictures",
    "vendi": "infinitesimal jackknife over generated pictures",
    "fld": f"{_JACKKNIFE}, variances as they are",
    "fld_gap": f"{_JACKKNIFE}, variances as they are",
    "fld_memorized": f"{_MEAN}, threshold as it is",
    "is": "of the mean over 10 splits",
    "swd": "of the mean over 10 disjoint groups of generated pictures",
    "ppl2_wend": "of the mean over the pairs kept",
    "pr_precision": _MEAN,
    "pr_recall": f"{_JACKKNIFE}, balls as they are",
    "dc_density": _MEAN,
    "dc_coverage": _JACKKNIFE,
    "mem_authentic": _MEAN,
    "mem_distance": _MEAN,
    "eq": "of the ratio of sums over motions, linearised",
}


@dataclass(frozen=True)
class MetricOutcome:
    """The estimates of a metric, one per output, and its closest pairs if it finds any."""

    estimates: list[Estimate]
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class MetricInputs:
    """Inputs of a metric over images.

    Attributes:
        generated: features ``[N, F]``.
        reference: the reference set; None for metrics without one.
        extractor: the detector.
        seed: seed of random subsets and directions.
        device: where to compute.
        held_out: images that the training has not seen; None: none are known.
    """

    generated: NDArray[np.float32]
    reference: Reference | None
    extractor: FeatureExtractor
    seed: int
    device: torch.device
    held_out: Reference | None = None


def compute_metric(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    """Compute a metric from features.

    Raises:
        MetricError: too few images for this metric.
    """
    return _METRICS[metric.formula](metric, inputs)


def check_held_out(metrics: Sequence[Metric], reference: Pictures, held_out: Pictures) -> None:
    """Check that the held-out images of ``fld`` are not the set that it compares with.

    Otherwise no image could be nearer to a training image than they are: copies would go unseen.

    Raises:
        MetricError: they are.
    """
    used = any(metric.uses_held_out for metric in metrics)
    if used and held_out.digest == reference.digest:
        raise MetricError(
            f"the held-out images {held_out.path} are those of the set to compare with, "
            f"{reference.path}; name images that the training does not see, or give none"
        )


def prepare_reference(metric: Metric, reference: Reference) -> None:
    """Compute what ``compute_metric`` needs from a reference.

    Raises:
        MetricError: features are not finite.
        DataError: an image cannot be read.
    """
    if wants_only_stats(metric):
        reference.prepare_stats(reference_limit(metric))
    else:
        reference.prepare_features(reference_limit(metric))


def wants_only_stats(metric: Metric) -> bool:
    """Whether a metric needs only mean and covariance of its reference."""
    return metric.formula == "fid"


def reference_limit(metric: Metric) -> int:
    """Maximum number of reference images of a metric."""
    return _OLDER_LIMIT if metric.is_older else _LIMITS.get(metric.formula, EVERYTHING)


def reference_count(metric: Metric, reference: Reference) -> int:
    """Number of reference images that a metric uses."""
    return reference.count(reference_limit(metric))


def error_rule(metric: Metric, output: str) -> str:
    """How the standard error of an output was estimated; part of the reports."""
    if metric.is_equivariance:
        return _ERROR_RULES["eq"]
    ending = output.removeprefix(metric.name)
    return _ERROR_RULES.get(metric.kind) or _ERROR_RULES[metric.formula + ending]


def covariance_divisor(metric: Metric) -> str | None:
    """What a metric divides its covariances by; None: it has none."""
    if not wants_only_stats(metric):
        return None
    ddof = KINDS[metric.kind].ddof
    return f"N - {ddof}" if ddof else "N"


def _frechet(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    real = _reference(inputs).stats(reference_limit(metric))
    return MetricOutcome([frechet_estimate(inputs.generated, real, KINDS[metric.kind].ddof)])


def _kernel(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    real = _reference(inputs).features(reference_limit(metric)).numpy()
    estimate = kernel_estimate(real, inputs.generated, _KID_SUBSETS, _KID_SIZE, seed=inputs.seed)
    return MetricOutcome([estimate])


def _torch_fidelity_kernel(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    """torch-fidelity's rule: subsets of 1000, its own seed, generated images drawn first."""
    real = _reference(inputs).features(reference_limit(metric)).numpy()
    fewest = min(len(real), len(inputs.generated))
    if fewest < _KID_SIZE:
        raise MetricError(
            f"{metric.name} draws subsets of {_KID_SIZE} images, and one side has {fewest}; give "
            "more images, or use kid, whose subsets are then smaller"
        )
    estimate = kernel_estimate(
        real,
        inputs.generated,
        _KID_SUBSETS,
        _KID_SIZE,
        seed=_TORCH_FIDELITY_SEED,
        draw_b_first=True,
    )
    return MetricOutcome([estimate])


def _score(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    extractor = inputs.extractor
    assert isinstance(extractor, InceptionFeatures)
    return MetricOutcome([inception_score(extractor.probabilities(_tensor(inputs)))])


def _neighborhood(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    reference, limit = _reference(inputs), reference_limit(metric)
    estimates = precision_recall_estimates if metric.formula == "pr" else density_coverage_estimates
    found = estimates(
        reference.features(limit),
        _tensor(inputs),
        metric.neighbor,
        real_radii=reference.radii(limit, metric.neighbor),
        device=inputs.device,
    )
    return MetricOutcome(list(found))


def _memory(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    reference, limit = _reference(inputs), reference_limit(metric)
    found = memorization(
        reference.features(limit),
        _tensor(inputs),
        _PAIRS,
        real_radii=reference.radii(limit, 1),
        device=inputs.device,
    )
    return MetricOutcome([found.authentic, found.distance], found.closest)


def _sliced(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    real, extractor = _reference(inputs).features(reference_limit(metric)), inputs.extractor
    assert isinstance(extractor, PatchFeatures)
    estimate = sliced_wasserstein(
        real, _tensor(inputs), extractor.num_levels, inputs.seed, inputs.device
    )
    return MetricOutcome([estimate])


def _cmmd(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    """Features scaled to length 1, as CLIP compares them."""
    reference, device = _reference(inputs), inputs.device
    real = _unit_length(reference.features(reference_limit(metric)).numpy())
    within = reference.once(("cmmd", len(real), ""), lambda: mean_kernel(real, _CMMD_SIGMA, device))
    gen = _unit_length(inputs.generated)
    estimate = gaussian_mmd(
        real, gen, _CMMD_SIGMA, scale=_CMMD_SCALE, within_real=within, device=device
    )
    return MetricOutcome([estimate])


def _unit_length(features: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(unit_rows(features).astype(np.float32))


def _vendi(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    return MetricOutcome([vendi_estimate(inputs.generated)])


def _likelihood(metric: Metric, inputs: MetricInputs) -> MetricOutcome:
    """Without held-out images, every second reference image counts as held out."""
    reference, gen, device = _reference(inputs), _tensor(inputs), inputs.device
    train = reference.features(reference_limit(metric))
    if inputs.held_out is None:
        test, source, train = train[1::2], "", train[::2]
    else:
        test, source = inputs.held_out.features(EVERYTHING), inputs.held_out.pictures.digest
    baseline = reference.once(
        ("fld", len(gen), source), lambda: baseline_likelihood(train, test, len(gen), device)
    )
    found = feature_likelihood(train, test, gen, baseline=baseline, device=device)
    return MetricOutcome([found.divergence, found.gap, found.memorized])


def _reference(inputs: MetricInputs) -> Reference:
    assert inputs.reference is not None
    return inputs.reference


def _tensor(inputs: MetricInputs) -> torch.Tensor:
    return torch.from_numpy(inputs.generated)


_METRICS: dict[str, Callable[[Metric, MetricInputs], MetricOutcome]] = {
    "fid": _frechet,
    "kid": _kernel,
    "torch_fidelity_kid": _torch_fidelity_kernel,
    "is": _score,
    "pr": _neighborhood,
    "dc": _neighborhood,
    "mem": _memory,
    "swd": _sliced,
    "cmmd": _cmmd,
    "vendi": _vendi,
    "fld": _likelihood,
}


def load_extractor(detector: str, device: torch.device, resolution: int) -> FeatureExtractor:
    """The extractor that ``Metric.detector`` names.

    Args:
        detector: a key of ``DETECTORS``, or ``patches``.
        device: where features are computed.
        resolution: side of the images in pixels; only ``patches`` needs it.

    Raises:
        MetricError: weights are not available, or the resolution is unsuitable.
    """
    if detector == "patches":
        return PatchFeatures(resolution, device)
    if detector in DETECTORS:
        return DETECTORS[detector].load(device)
    raise MetricError(f"there is no detector '{detector}'")
