"""A number, and what it takes to compare it with another."""

from dataclasses import dataclass


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
