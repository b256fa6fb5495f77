"""Whether a new version is better than the present champion, and in words why (not)."""

from collections.abc import Mapping
from typing import Any

# Two values of a metric mean the same thing only where all of these agree.
_CONDITIONS = {
    "reference_sha256": "the reference set",
    "detector_sha256": "the detector",
    "num_generated": "the number of generated images",
    "num_reference": "the number of reference images",
    "resize": "the resizing",
    "seed": "the seed",
}


def judge(
    result: Mapping[str, Any], champion: str, champion_result: Mapping[str, Any] | None
) -> tuple[bool, str]:
    """Compare a version with the champion; returns whether it takes its place, and why.

    Args:
        result: the new version's row of ``reports/metrics.json`` for the chosen metric.
        champion: version number of the champion.
        champion_result: the champion's row for the same metric; None if it was not measured by it.
    """
    metric, stays = result["metric"], f"version {champion} stays champion"
    if champion_result is None:
        return False, f"{stays}: not comparable, it was not measured by {metric}"
    differing = [
        words for key, words in _CONDITIONS.items() if result.get(key) != champion_result.get(key)
    ]
    if differing:
        return False, f"{stays}: not comparable by {metric}, for {' and '.join(differing)} differ"
    new, old = float(result["value"]), float(champion_result["value"])
    if new > old if result["higher_is_better"] else new < old:
        return True, f"champion: {metric} {new:g} is better than the {old:g} of version {champion}"
    return False, f"{stays}: {metric} {new:g} is not better than its {old:g}"
