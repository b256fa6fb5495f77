"""Whether a new version is better than the present champion, and in words why (not)."""

from collections.abc import Mapping
from typing import Any

from sg3flow.errors import MetricError
from sg3flow.metrics.identity import differing_meaning
from sg3flow.metrics.verdict import BETTER, NOISE, judge_results


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

    It does where it is better by ``judge_results``: beyond the error of the difference.

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
    verdict = judge_results(result, champion_result)
    if not verdict.is_compared:
        return False, f"{stays}: not comparable by {metric}, for {verdict.reason}"
    new, old = float(result["value"]), float(champion_result["value"])
    if verdict.word == BETTER:
        return True, f"champion: {metric} {new:g} is better than the {old:g} of version {champion}"
    words = f"{stays}: {metric} {new:g} is not better than its {old:g}"
    return False, f"{words} ({verdict.reason})" if verdict.word == NOISE else words
