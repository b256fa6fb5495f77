"""Frechet distance by singular values against scipy's matrix square root: time and difference.

    python benchmarks/metrics_frechet.py --features 2048 --repeats 3

Both take the same float64 covariances, in turn; the table has the fastest time of each.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg

from sg3flow.metrics import FeatureStats, RunningStats, frechet_distance


def drawn_stats(features: int, count: int, seed: int) -> FeatureStats:
    """Statistics of ``count`` correlated samples."""
    mix = np.random.RandomState(0).randn(features, features) / np.sqrt(features)
    samples = np.random.RandomState(seed).randn(count, features) @ mix + 0.01 * seed
    running = RunningStats(features)
    running.add(samples)
    return running.result()


def by_square_root(a: FeatureStats, b: FeatureStats) -> float:
    """The distance as published code computes it."""
    root = scipy.linalg.sqrtm(a.cov @ b.cov)
    offset = a.mean - b.mean
    return float(offset @ offset + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(root).real)


def by_singular_values(a: FeatureStats, b: FeatureStats) -> float:
    """The distance as sg3flow computes it."""
    return frechet_distance(a.mean, a.cov, b.mean, b.cov)


def fastest(
    ways: Sequence[Callable[[FeatureStats, FeatureStats], float]],
    a: FeatureStats,
    b: FeatureStats,
    repeats: int,
) -> list[tuple[float, float]]:
    """Value and shortest time of each implementation, by turns."""
    found = [(0.0, np.inf)] * len(ways)
    for _ in range(repeats):
        for place, way in enumerate(ways):
            start = time.perf_counter()
            value = way(a, b)
            found[place] = (value, min(found[place][1], time.perf_counter() - start))
    return found


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    print("features  samples  sqrtm [s]  ours [s]  ratio  relative difference")
    for features in options.features:
        for count in (4 * features, features // 2):  # the second: singular covariances
            a, b = drawn_stats(features, count, 1), drawn_stats(features, count, 2)
            ways = [by_square_root, by_singular_values]
            (old, old_sec), (new, new_sec) = fastest(ways, a, b, options.repeats)
            difference = abs(new - old) / old
            print(
                f"{features:8}  {count:7}  {old_sec:9.3f}  {new_sec:8.3f}  "
                f"{old_sec / new_sec:5.1f}  {difference:.1e}"
            )


if __name__ == "__main__":
    main()
