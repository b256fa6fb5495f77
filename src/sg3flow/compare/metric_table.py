"""Metrics of several runs against those of the first one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sg3flow.compare.facts import Facts, letter
from sg3flow.metrics.verdict import BETTER, WORSE, Verdict, judge_results

Row = Mapping[str, Any]
NO_BASE = "nothing to compare with"


@dataclass(frozen=True)
class MetricRow:
    """A metric over all runs.

    Attributes:
        metric: its name.
        cells: the result of each run; None: not measured.
        verdicts: of each run against the first one; None for the first one itself.
    """

    metric: str
    cells: tuple[Row | None, ...]
    verdicts: tuple[Verdict | None, ...]


def at_best(runs: Sequence[Facts]) -> list[MetricRow]:
    """Every metric at each run's own best snapshot."""
    return _table([run.best for run in runs])


def at_common_age(runs: Sequence[Facts]) -> tuple[int, list[MetricRow]] | None:
    """Every metric at the greatest age at which all runs were measured; None: there is none.

    None as well where that is every run's best snapshot already.
    """
    ages = [
        {row["kimg"] for row in run.results if isinstance(row.get("kimg"), int)} for run in runs
    ]
    common = set.intersection(*ages) if ages else set()
    if not common:
        return None
    age = max(common)
    by_run = [{r["metric"]: r for r in run.results if r.get("kimg") == age} for run in runs]
    if all(rows == dict(run.best) for rows, run in zip(by_run, runs, strict=True)):
        return None
    return age, _table(by_run)


def _table(by_run: Sequence[Mapping[str, Row]]) -> list[MetricRow]:
    metrics = list(dict.fromkeys(name for rows in by_run for name in rows))
    table = []
    for metric in metrics:
        cells = tuple(rows.get(metric) for rows in by_run)
        verdicts = (None, *(_judged(cell, cells[0]) for cell in cells[1:]))
        table.append(MetricRow(metric, cells, verdicts))
    return table


def _judged(cell: Row | None, base: Row | None) -> Verdict:
    if base is None and cell is not None:
        return Verdict(NO_BASE, f"{letter(0)} was not measured by this metric")
    return judge_results(cell, base)


def headline(rows: Sequence[MetricRow]) -> str:
    """The first metric's outcome as a sentence; empty: nothing was measured."""
    if not rows:
        return ""
    row = rows[0]
    if row.cells[0] is None:
        return f"{letter(0)} was not measured by {row.metric}, so nothing is compared with it."
    words: dict[str, list[str]] = {}
    for index, verdict in enumerate(row.verdicts):
        if verdict is not None:
            words.setdefault(verdict.word, []).append(letter(index))
    parts = [f"{_listed(names)} {_phrase(word)}" for word, names in words.items()]
    return f"By {row.metric}, {'; '.join(parts)}." if parts else ""


def _phrase(word: str) -> str:
    endings = {BETTER: "better than A", WORSE: "worse than A", "within noise": "within noise of A"}
    return endings.get(word, f"{word} with A" if word == "not comparable" else word)


def _listed(names: Sequence[str]) -> str:
    verb = "is" if len(names) == 1 else "are"
    if len(names) == 1:
        return f"{names[0]} {verb}"
    return f"{', '.join(names[:-1])} and {names[-1]} {verb}"
