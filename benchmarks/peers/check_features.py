"""Frechet and kernel distances of the same features: the peers' functions beside ours."""

from collections.abc import Iterator

import numpy as np
import outside  # noqa: F401
from cleanfid.fid import fid_from_feats
from pytorch_fid.fid_score import calculate_frechet_distance
from rows import Row, report_rows

from sg3flow.metrics import frechet_distance

_COUNT, _FEATURES = 2000, 256


def drawn_features(seed: int) -> np.ndarray:
    """Correlated, positive features like those of Inception, float32 ``[2000, 256]``."""
    mix = np.random.RandomState(0).randn(_FEATURES, _FEATURES) / np.sqrt(_FEATURES)
    samples = np.random.RandomState(seed).randn(_COUNT, _FEATURES) @ mix
    return np.abs(samples + 0.1 * seed).astype(np.float32)


def check() -> Iterator[Row]:
    """A row for each peer and distance."""
    a, b = drawn_features(1), drawn_features(2)
    case = f"Frechet distance of {_COUNT:,} x {_FEATURES} features"
    sides = [(x.astype(float).mean(axis=0), np.cov(x.astype(float), rowvar=False)) for x in (a, b)]
    ours = frechet_distance(*sides[0], *sides[1])
    theirs = float(calculate_frechet_distance(*sides[0], *sides[1]))
    yield Row(case, "pytorch-fid", theirs, ours, 1e-6)
    yield Row(case, "clean-fid", float(fid_from_feats(a, b)), ours, 1e-6)


if __name__ == "__main__":
    report_rows(check)
