"""Inception score (Salimans et al. 2016)."""

from itertools import pairwise

import numpy as np
import torch

from sg3flow.errors import MetricError
from sg3flow.metrics.estimates import Estimate, mean_estimate

_SPLITS = 10


def inception_score(probabilities: torch.Tensor) -> Estimate:
    """Mean over 10 consecutive splits of ``exp(E KL(p(y|x) || p(y)))``.

    The published figure beside the mean is the deviation over the splits; the standard error here
    is that of the mean.

    Args:
        probabilities: of the classes, ``[N, classes]``.

    Raises:
        MetricError: fewer items than splits.
    """
    if probabilities.ndim != 2 or len(probabilities) < _SPLITS:
        raise MetricError(
            f"the inception score needs probabilities of at least {_SPLITS} pictures, not "
            f"{list(probabilities.shape)}"
        )
    edges = [len(probabilities) * split // _SPLITS for split in range(_SPLITS + 1)]
    scores = [_score(probabilities[start:end].double()) for start, end in pairwise(edges)]
    return mean_estimate(np.array(scores))


def _score(p: torch.Tensor) -> float:
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0, keepdim=True))
    return float(divergence.sum(dim=1).mean().exp())
