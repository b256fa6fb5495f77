"""The comparison of runs: what differs, the metrics with their significance, and the curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sg3flow.compare.run_data import Point, RunData, letter
from sg3flow.metrics.error_terms import Stored, Terms
from sg3flow.metrics.estimates import (
    BETTER,
    WORSE,
    ComparisonResult,
    compare_results,
    standard_error,
    too_few_images,
    why_not_comparable,
)
from sg3flow.metrics.names import unit_of

# Order of the sections of params.yaml in tables.
_SECTIONS = ("train", "pack", "fetch", "validate", "evaluate", "render", "register")
Row = Mapping[str, Any]
NO_BASE = "nothing to compare with"
MAX_POINTS = 240  # per line; more would not be visible
_STATISTICS = {
    "Loss/G/loss": "generator loss",
    "Loss/D/loss": "discriminator loss",
    "Loss/r1_penalty": "R1 penalty (squared gradient norm of D at reals)",
    "Loss/signs/real": "mean sign of D at reals (controlled by ADA)",
    "Progress/augment": "ADA p (augmentation strength)",
    "Timing/sec_per_kimg": "seconds per kimg",
}


@dataclass(frozen=True)
class Difference:
    """A setting or condition that differs between runs.

    Attributes:
        name: name of the setting.
        values: one per run; None: not recorded.
    """

    name: str
    values: tuple[str | None, ...]


def differing(recorded: Sequence[Mapping[str, str]]) -> list[Difference]:
    """The names with at least two different recorded values."""
    names = list(dict.fromkeys(name for values in recorded for name in values))
    rows = [Difference(name, tuple(each.get(name) for each in recorded)) for name in names]
    return [row for row in rows if len(set(row.values) - {None}) > 1]


def differing_params(runs: Sequence[RunData]) -> list[Difference]:
    """Settings that differ; those of the training come first."""
    found = differing([run.params for run in runs])
    return sorted(found, key=lambda row: (_section_rank(row.name), row.name))


def differing_environment(runs: Sequence[RunData]) -> list[Difference]:
    """Other conditions that differ: data, code, torch, ops, device."""
    return differing([run.environment for run in runs])


def not_recorded(runs: Sequence[RunData]) -> list[str]:
    """One line per run that lacks settings which another run recorded in the same section."""
    every = dict.fromkeys(name for run in runs for name in run.params)
    lines = []
    for index, run in enumerate(runs):
        sections = {name.partition(".")[0] for name in run.params}
        missing = [n for n in every if n not in run.params and n.partition(".")[0] in sections]
        if missing:
            shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            lines.append(f"{letter(index)} did not record {shown}")
    return lines


def _section_rank(name: str) -> int:
    section = name.partition(".")[0]
    return _SECTIONS.index(section) if section in _SECTIONS else len(_SECTIONS)


@dataclass(frozen=True)
class MetricRow:
    """A metric of all runs.

    Attributes:
        metric: its name.
        cells: the result of each run; None: not measured.
        results: the comparison of each run with the first one; None for the first one.
    """

    metric: str
    cells: tuple[Row | None, ...]
    results: tuple[ComparisonResult | None, ...]


def at_best(runs: Sequence[RunData]) -> list[MetricRow]:
    """All metrics at the best snapshot of each run."""
    return _table([run.best for run in runs], all_terms(runs))


def all_terms(runs: Sequence[RunData]) -> dict[str, Stored]:
    """The error terms of all runs by digest."""
    return {digest: terms for run in runs for digest, terms in run.terms.items()}


def at_common_age(runs: Sequence[RunData]) -> tuple[int, list[MetricRow]] | None:
    """All metrics at the largest kimg at which all runs were measured.

    None if there is no such kimg, or if it is the best snapshot of every run.
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
    return age, _table(by_run, all_terms(runs))


def _table(by_run: Sequence[Mapping[str, Row]], terms: Terms) -> list[MetricRow]:
    metrics = list(dict.fromkeys(name for rows in by_run for name in rows))
    table = []
    for metric in metrics:
        cells = tuple(rows.get(metric) for rows in by_run)
        results = (None, *(_compared(cell, cells[0], terms) for cell in cells[1:]))
        table.append(MetricRow(metric, cells, results))
    return table


def _compared(cell: Row | None, base: Row | None, terms: Terms) -> ComparisonResult:
    if base is None and cell is not None:
        return ComparisonResult(NO_BASE, f"{letter(0)} has no value of this metric")
    return compare_results(cell, base, terms)


def too_few(rows: Sequence[MetricRow]) -> str:
    """How many images would tell a run from the first one; empty: all are told apart.

    Said once, about the first comparison that needs more, by the order of the metrics.
    """
    for row in rows:
        for index, result in enumerate(row.results):
            cell = row.cells[index]
            if result is not None and cell is not None:
                words = too_few_images(cell, result)
                if words:
                    return f"{letter(index)} and {letter(0)}: {words}."
    return ""


def headline(rows: Sequence[MetricRow]) -> str:
    """The result of the first metric as a sentence; empty: nothing was measured."""
    if not rows:
        return ""
    row = rows[0]
    if row.cells[0] is None:
        return f"{letter(0)} has no value of {row.metric}, so nothing can be compared with it."
    words: dict[str, list[str]] = {}
    for index, result in enumerate(row.results):
        if result is not None:
            words.setdefault(result.word, []).append(letter(index))
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


@dataclass(frozen=True)
class Line:
    """The line of one run in a chart.

    Attributes:
        run: index of the run in the comparison.
        points: points to draw, by kimg.
        low, high: minimum and maximum of the values that each point averages; empty if points are
            single values.
    """

    run: int
    points: tuple[Point, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over kimg with one value axis.

    Attributes:
        title: description of the values.
        name: name of the quantity in its file.
        lines: lines of the runs that have it.
        notes: which runs are missing, and why.
        may_be_log: whether values over several decades get a logarithmic axis.
    """

    title: str
    name: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    may_be_log: bool = False


def statistic_charts(runs: Sequence[RunData]) -> list[Chart]:
    """Losses, ADA p and speed, of the runs that recorded them."""
    charts = []
    for name, title in _STATISTICS.items():
        lines = [thinned(i, _recorded(run, name)) for i, run in enumerate(runs)]
        drawn = tuple(line for line in lines if line.points)
        if name == "Progress/augment" and not any(p.value for line in drawn for p in line.points):
            continue  # no run used ADA
        if any(len(line.points) > 1 for line in drawn):
            absent = [letter(line.run) for line in lines if not line.points]
            notes = (f"{', '.join(absent)}: not recorded",) if absent else ()
            charts.append(Chart(title, name, drawn, notes, name == "Loss/r1_penalty"))
    return charts


def _recorded(run: RunData, name: str) -> Sequence[Point]:
    points = run.curves.get(name, ())
    # The report at kimg 0 has no valid speed: no image was processed before it.
    return [p for p in points if p.kimg > 0] if name.startswith("Timing/") else points


def metric_charts(runs: Sequence[RunData]) -> list[Chart]:
    """Each metric with its errors over kimg.

    Results that are not comparable with the first run that has the metric are excluded with a note.
    """
    metrics = list(dict.fromkeys(str(row["metric"]) for run in runs for row in run.results))
    charts = [_reported(runs, metric) for metric in metrics]
    trained = list(dict.fromkeys(name for run in runs for name in run.trained))
    charts += [_trained(runs, name) for name in trained if name not in metrics]
    return [chart for chart in charts if any(len(line.points) > 1 for line in chart.lines)]


def _reported(runs: Sequence[RunData], metric: str) -> Chart:
    rows = [_rows_of(run, metric) for run in runs]
    base = next(each[0] for each in rows if each)
    lines, notes = [], []
    for index, own in enumerate(rows):
        reasons = [why for row in own if (why := why_not_comparable(row, base))]
        alike = [row for row in own if not why_not_comparable(row, base)]
        if reasons:
            part = " in part" if alike else ""
            notes.append(f"{letter(index)} excluded{part}: {reasons[0]}")
        elif not own:
            notes.append(f"{letter(index)}: not measured")
        points = tuple(Point(r["kimg"], float(r["value"]), standard_error(r)) for r in alike)
        if points:
            lines.append(Line(index, points))
    better = "higher" if base.get("higher_is_better") else "lower"
    unit = f" in {unit_of(metric)}" if unit_of(metric) else ""
    title = f"{metric}{unit} ({better} is better; bars: 2 standard errors)"
    return Chart(title, metric, tuple(lines), tuple(notes), may_be_log=True)


def _rows_of(run: RunData, metric: str) -> list[Mapping[str, Any]]:
    rows = [r for r in run.results if r["metric"] == metric and isinstance(r.get("kimg"), int)]
    return sorted(rows, key=lambda row: int(row["kimg"]))


def _trained(runs: Sequence[RunData], name: str) -> Chart:
    lines = [thinned(index, run.trained.get(name, ())) for index, run in enumerate(runs)]
    absent = [letter(line.run) for line in lines if not line.points]
    notes = ["measured during training: no standard errors, and each run against its own data set"]
    notes += [f"{', '.join(absent)}: not recorded"] if absent else []
    drawn = tuple(line for line in lines if line.points)
    title = f"{name} (measured during training)"
    return Chart(title, name, drawn, tuple(notes), may_be_log=True)


def thinned(run: int, points: Sequence[Point]) -> Line:
    """A line of at most ``MAX_POINTS`` points: longer ones are averaged and keep their range."""
    ordered = sorted(points, key=lambda point: point.kimg)
    if len(ordered) <= MAX_POINTS:
        return Line(run, tuple(ordered))
    edges = [len(ordered) * i // MAX_POINTS for i in range(MAX_POINTS + 1)]
    groups = [ordered[a:b] for a, b in pairwise(edges)]
    means = tuple(Point(_mean(g, _kimg), _mean(g, _value)) for g in groups)
    low = tuple(min(map(_value, group)) for group in groups)
    high = tuple(max(map(_value, group)) for group in groups)
    return Line(run, means, low, high)


def _kimg(point: Point) -> float:
    return point.kimg


def _value(point: Point) -> float:
    return point.value


def _mean(points: Sequence[Point], key: Callable[[Point], float]) -> float:
    values = [key(point) for point in points]
    return min(
        max(sum(values) / len(values), min(values)), max(values)
    )  # within the range despite rounding


@dataclass(frozen=True)
class Comparison:
    """The comparison of several runs with the first one.

    Attributes:
        runs: in the given order.
        headline: the result as a sentence; empty: nothing was measured.
        too_few: how many images would tell more; empty: there are enough.
        metrics: metrics at the best snapshot of each run.
        common: kimg at which all runs were measured, with the metrics there; None: see
            ``at_common_age``.
        params, environment: settings and other conditions that differ.
        gaps: sentences about settings that some runs did not record.
        charts: curves of all runs.
    """

    runs: tuple[RunData, ...]
    headline: str
    too_few: str
    metrics: tuple[MetricRow, ...]
    common: tuple[int, list[MetricRow]] | None
    params: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    gaps: tuple[str, ...]
    charts: tuple[Chart, ...]


def compare(runs: Sequence[RunData]) -> Comparison:
    """Compare runs with the first one."""
    metrics = at_best(runs)
    return Comparison(
        runs=tuple(runs),
        headline=headline(metrics),
        too_few=too_few(metrics),
        metrics=tuple(metrics),
        common=at_common_age(runs),
        params=tuple(differing_params(runs)),
        environment=tuple(differing_environment(runs)),
        gaps=tuple(not_recorded(runs)),
        charts=(*metric_charts(runs), *statistic_charts(runs)),
    )
