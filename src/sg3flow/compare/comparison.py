"""Everything a comparison shows, computed once for the page and the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from sg3flow.compare.curves import Chart, metric_charts, statistic_charts
from sg3flow.compare.differences import (
    Difference,
    differing_environment,
    differing_params,
    not_recorded,
)
from sg3flow.compare.facts import Facts
from sg3flow.compare.metric_table import MetricRow, at_best, at_common_age, headline


@dataclass(frozen=True)
class Comparison:
    """Runs and what is to be said of them; the first one is what the others are held against.

    Attributes:
        runs: in the order given.
        headline: the outcome in a sentence; empty: nothing was measured.
        metrics: at each run's best snapshot.
        common: the age at which all were measured, and the metrics there; None: see
            ``at_common_age``.
        params, environment: what differs.
        gaps: settings that some did not record, in words.
        charts: curves laid over each other.
    """

    runs: tuple[Facts, ...]
    headline: str
    metrics: tuple[MetricRow, ...]
    common: tuple[int, list[MetricRow]] | None
    params: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    gaps: tuple[str, ...]
    charts: tuple[Chart, ...]


def compare(runs: Sequence[Facts]) -> Comparison:
    """Hold runs against the first of them."""
    metrics = at_best(runs)
    return Comparison(
        runs=tuple(runs),
        headline=headline(metrics),
        metrics=tuple(metrics),
        common=at_common_age(runs),
        params=tuple(differing_params(runs)),
        environment=tuple(differing_environment(runs)),
        gaps=tuple(not_recorded(runs)),
        charts=(*metric_charts(runs), *statistic_charts(runs)),
    )
