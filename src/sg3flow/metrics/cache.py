"""Statistics of reference sets, kept by what decides them.

A file's name is the digest of the data's content, of the detector and of the rules; so a changed
picture is another file, and nothing has to be invalidated.
"""

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from sg3flow.downloads import cache_folder
from sg3flow.files import replaced_file
from sg3flow.metrics.frechet import FeatureStats

_FORMAT = "sg3flow-stats-1"


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
    content = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    path = stats_folder() / f"{hashlib.sha256(content.encode()).hexdigest()}.npz"
    kept = _read(path, content)
    if kept is not None:
        return kept
    stats = compute()
    try:
        with replaced_file(path) as stream:
            np.savez(stream, key=content, count=stats.count, mean=stats.mean, cov=stats.cov)
    except OSError as error:
        print(f"warning: statistics not kept in {path.parent}: {error.strerror}", file=sys.stderr)
    return stats


def _read(path: Path, content: str) -> FeatureStats | None:
    try:
        # A stream of our own: numpy leaves its file open where the content is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            stats = FeatureStats(int(arrays["count"]), arrays["mean"], arrays["cov"])
            is_ours = str(arrays["key"]) == content
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return stats if is_ours and _is_sound(stats) else None


def _is_sound(stats: FeatureStats) -> bool:
    size = stats.mean.shape[0] if stats.mean.ndim == 1 else -1
    finite = bool(np.isfinite(stats.mean).all() and np.isfinite(stats.cov).all())
    return finite and stats.cov.shape == (size, size) and stats.count > 0
