"""Statistics and features of reference sets, kept by what decides them.

A file's name is the digest of the data's content, of the detector and of the rules; so a changed
picture is another file, and nothing has to be invalidated.
"""

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sg3flow.downloads import cache_folder
from sg3flow.files import replaced_file
from sg3flow.metrics.frechet import FeatureStats

_FORMAT = "sg3flow-stats-1"
_ROWS = 4096


def stats_folder() -> Path:
    """``stats`` in the cache folder."""
    return cache_folder() / "stats"


def cached_stats(key: Mapping[str, str], compute: Callable[[], FeatureStats]) -> FeatureStats:
    """The statistics kept for ``key``, or computed now and kept.

    A file that is damaged counts as absent. Two processes may do this at once: each writes a whole
    file, and both files say the same. A folder that cannot be written costs the time of computing
    again, and nothing else.

    Args:
        key: everything that decides the result, as names and texts.
    """
    kept = _read(key)
    if kept is not None and (stats := _sound_stats(kept)):
        return stats
    stats = compute()
    _keep(key, {"count": np.array(stats.count), "mean": stats.mean, "cov": stats.cov})
    return stats


def cached_features(
    key: Mapping[str, str], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Features ``[N, F]`` kept for ``key``, or computed now and kept; as ``cached_stats``."""
    kept = _read(key)
    if kept is not None and "features" in kept:
        features = kept["features"]
        if features.ndim == 2 and features.dtype == np.float32 and _all_finite(features):
            return features
    features = compute()
    _keep(key, {"features": features})
    return features


def _all_finite(features: NDArray[np.float32]) -> bool:
    parts = range(0, len(features), _ROWS)  # the mask of all at once is a quarter of their size
    return all(bool(np.isfinite(features[start : start + _ROWS]).all()) for start in parts)


def _keep(key: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> None:
    path, content = _place(key)
    try:
        with replaced_file(path) as stream:
            np.savez(stream, allow_pickle=False, key=np.array(content), **arrays)
    except OSError as error:
        print(f"warning: statistics not kept in {path.parent}: {error.strerror}", file=sys.stderr)


def _read(key: Mapping[str, str]) -> dict[str, NDArray[Any]] | None:
    path, content = _place(key)
    try:
        # A stream of our own: numpy leaves its file open where the content is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays) if str(arrays["key"]) == content else None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _place(key: Mapping[str, str]) -> tuple[Path, str]:
    content = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    return stats_folder() / f"{hashlib.sha256(content.encode()).hexdigest()}.npz", content


def _sound_stats(arrays: Mapping[str, NDArray[Any]]) -> FeatureStats | None:
    try:
        stats = FeatureStats(int(arrays["count"]), arrays["mean"], arrays["cov"])
    except (KeyError, TypeError, ValueError):
        return None
    size = stats.mean.shape[0] if stats.mean.ndim == 1 else -1
    finite = bool(np.isfinite(stats.mean).all() and np.isfinite(stats.cov).all())
    return stats if finite and stats.cov.shape == (size, size) and stats.count > 0 else None
