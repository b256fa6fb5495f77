"""Whether a new version is better than the present champion, and in words why (not)."""

import math
from collections.abc import Mapping
from typing import Any

from sg3flow.errors import MetricError
from sg3flow.metrics.identity import differing_conditions, differing_meaning

# A difference counts from so many standard errors: of two equal networks, 1 in 40 would pass.
_ERRORS_APART = 2.0


def require_comparable(
    result: Mapping[str, Any], champion: str, champion_result: Mapping[str, Any] | None
) -> None:
    """Refuse to compare what was measured against other pictures or by another detector.

    Arguments are those of ``judge``.

    Raises:
        MetricError: the reference set or the detector differs; says what to do.
    """
    differing = differing_meaning(result, champion_result) if champion_result is not None else []
    if differing:
        raise MetricError(
            f"{result['metric']} cannot be compared with the champion, version {champion}: "
            f"{' and '.join(differing)} differ; register under another name, or take the alias "
            "champion from that version first"
        )


def judge(
    result: Mapping[str, Any], champion: str, champion_result: Mapping[str, Any] | None
) -> tuple[bool, str]:
    """Compare a version with the champion; returns whether it takes its place, and why.

    It does where the difference is beyond its error: more than twice the root of both results'
    squared standard errors. A result that carries none counts as exact.

    Args:
        result: the new version's row of ``reports/metrics.json`` for the chosen metric.
        champion: version number of the champion.
        champion_result: the champion's row for the same metric; None if it was not measured by it.

    Raises:
        MetricError: as ``require_comparable``.
    """
    metric, stays = result["metric"], f"version {champion} stays champion"
    if champion_result is None:
        return False, f"{stays}: not comparable, it was not measured by {metric}"
    require_comparable(result, champion, champion_result)
    differing = differing_conditions(result, champion_result)
    if differing:
        return False, f"{stays}: not comparable by {metric}, for {' and '.join(differing)} differ"
    new, old = float(result["value"]), float(champion_result["value"])
    gain = new - old if result["higher_is_better"] else old - new
    errors = (float(row.get("standard_error") or 0) for row in (result, champion_result))
    margin = _ERRORS_APART * math.hypot(*errors)
    if gain > margin:
        return True, f"champion: {metric} {new:g} is better than the {old:g} of version {champion}"
    words = f"{stays}: {metric} {new:g} is not better than its {old:g}"
    return False, f"{words} by more than the error, {margin:.2g}" if gain > 0 else words
