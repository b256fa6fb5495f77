"""A number, and what it takes to compare it with another."""

from dataclasses import dataclass
from typing import Protocol

import torch

from sg3flow.metrics.estimates import Estimate
from sg3flow.metrics.judging import error_rule, reference_count
from sg3flow.metrics.names import Metric
from sg3flow.metrics.reference import Reference


@dataclass(frozen=True)
class MetricResult:
    """One number, and what it takes to compare it with another.

    Attributes:
        snapshot: file name of the snapshot, or the source of the network.
        kimg: thousands of real images seen in training; None for a network of unknown age.
        metric: name with the count, ``fid50k_full``; one of several numbers has an ending,
            ``pr50k3_full_recall``.
        value: a distance, a share, a score, or dB.
        standard_error: how far the value would scatter with other generated pictures; None: too
            few of them to tell. ``error_rule`` says how it was estimated.
        num_generated, num_reference: pictures on either side.
        detector, detector_sha256, resize: of the features; None for equivariance.
        reference_sha256: digest of the content of the packed set; None, as ``num_reference``,
            for what compares with no set.
        network_sha256: digest of the network's file.
        torch: version that computed it.
    """

    snapshot: str
    kimg: int | None
    metric: str
    value: float
    standard_error: float | None
    error_rule: str | None
    num_generated: int
    num_reference: int | None
    detector: str | None
    detector_sha256: str | None
    reference_sha256: str | None
    network_sha256: str
    resize: str | None
    seed: int
    higher_is_better: bool
    torch: str


@dataclass(frozen=True)
class Subject:
    """What was judged: its name, its age if it has one, and the digest of its content."""

    name: str
    kimg: int | None
    sha256: str


class Detector(Protocol):
    """What looked at the pictures, in words."""

    name: str
    digest: str
    resize: str


def build_results(
    metric: Metric,
    estimates: list[Estimate],
    subject: Subject,
    detector: Detector | None,
    reference: Reference | None,
    seed: int,
) -> list[MetricResult]:
    """The rows of one metric, one an output; ``reference`` is None where it compares with none."""
    return [
        MetricResult(
            snapshot=subject.name,
            kimg=subject.kimg,
            metric=output,
            value=estimate.value,
            standard_error=estimate.standard_error,
            error_rule=error_rule(metric, output) if estimate.standard_error is not None else None,
            num_generated=metric.num_images,
            num_reference=reference_count(metric, reference) if reference else None,
            detector=detector.name if detector else None,
            detector_sha256=detector.digest if detector else None,
            reference_sha256=reference.pictures.digest if reference else None,
            network_sha256=subject.sha256,
            resize=detector.resize if detector else None,
            seed=seed,
            higher_is_better=higher,
            torch=torch.__version__,
        )
        for (output, higher), estimate in zip(metric.outputs.items(), estimates, strict=True)
    ]
