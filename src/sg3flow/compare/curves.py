"""Which curves of several runs are laid over each other, and in how many points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sg3flow.compare.facts import Facts, Point, letter
from sg3flow.metrics.verdict import standard_error, why_not_comparable

MOST_POINTS = 240  # a line: more than its pixels would not be seen

_STATISTICS = {
    "Loss/G/loss": "generator loss",
    "Loss/D/loss": "discriminator loss",
    "Loss/r1_penalty": "R1 penalty (squared gradient norm of D at reals)",
    "Loss/signs/real": "sign of D at reals, mean (what ADA holds to its target)",
    "Progress/augment": "ADA p (augmentation strength)",
    "Timing/sec_per_kimg": "seconds per kimg",
}


@dataclass(frozen=True)
class Line:
    """One run's part of a chart.

    Attributes:
        run: its number in the comparison.
        points: what is drawn, in order of age.
        low, high: least and greatest value around each point, where points stand for several;
            empty otherwise.
    """

    run: int
    points: tuple[Point, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over kimg with one value axis.

    Attributes:
        title: what the values are.
        name: of the quantity in its file.
        lines: of the runs that have it.
        notes: which runs are missing, and why.
        may_be_log: whether values over decades are drawn by their ratios.
    """

    title: str
    name: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    may_be_log: bool = False


def statistic_charts(runs: Sequence[Facts]) -> list[Chart]:
    """Losses, ADA p and speed, as far as a run has them."""
    charts = []
    for name, title in _STATISTICS.items():
        lines = [thinned(i, _recorded(run, name)) for i, run in enumerate(runs)]
        drawn = tuple(line for line in lines if line.points)
        if name == "Progress/augment" and not any(p.value for line in drawn for p in line.points):
            continue  # trained without
        if any(len(line.points) > 1 for line in drawn):
            absent = [letter(line.run) for line in lines if not line.points]
            notes = (f"{', '.join(absent)}: not recorded",) if absent else ()
            charts.append(Chart(title, name, drawn, notes, name == "Loss/r1_penalty"))
    return charts


def _recorded(run: Facts, name: str) -> Sequence[Point]:
    points = run.curves.get(name, ())
    # Before the first picture nothing has a speed: that report divides by nothing.
    return [p for p in points if p.kimg > 0] if name.startswith("Timing/") else points


def metric_charts(runs: Sequence[Facts]) -> list[Chart]:
    """Each metric with its errors over the age of the snapshots.

    What cannot be compared with the first run that has it is left out, and a note says why.
    """
    metrics = list(dict.fromkeys(str(row["metric"]) for run in runs for row in run.results))
    charts = [_reported(runs, metric) for metric in metrics]
    trained = list(dict.fromkeys(name for run in runs for name in run.trained))
    charts += [_trained(runs, name) for name in trained if name not in metrics]
    return [chart for chart in charts if any(len(line.points) > 1 for line in chart.lines)]


def _reported(runs: Sequence[Facts], metric: str) -> Chart:
    rows = [_rows_of(run, metric) for run in runs]
    base = next(each[0] for each in rows if each)
    lines, notes = [], []
    for index, own in enumerate(rows):
        reasons = [why for row in own if (why := why_not_comparable(row, base))]
        alike = [row for row in own if not why_not_comparable(row, base)]
        if reasons:
            part = " in part" if alike else ""
            notes.append(f"{letter(index)} left out{part}: {reasons[0]}")
        elif not own:
            notes.append(f"{letter(index)}: not measured")
        points = tuple(Point(r["kimg"], float(r["value"]), standard_error(r)) for r in alike)
        if points:
            lines.append(Line(index, points))
    better = "higher" if base.get("higher_is_better") else "lower"
    title = f"{metric} ({better} is better; bars: 2 standard errors)"
    return Chart(title, metric, tuple(lines), tuple(notes), may_be_log=True)


def _rows_of(run: Facts, metric: str) -> list[Mapping[str, Any]]:
    rows = [r for r in run.results if r["metric"] == metric and isinstance(r.get("kimg"), int)]
    return sorted(rows, key=lambda row: int(row["kimg"]))


def _trained(runs: Sequence[Facts], name: str) -> Chart:
    lines = [thinned(index, run.trained.get(name, ())) for index, run in enumerate(runs)]
    absent = [letter(line.run) for line in lines if not line.points]
    notes = ["measured during training: without errors, and against each run's own data set"]
    notes += [f"{', '.join(absent)}: not recorded"] if absent else []
    drawn = tuple(line for line in lines if line.points)
    title = f"{name} (measured during training)"
    return Chart(title, name, drawn, tuple(notes), may_be_log=True)


def thinned(run: int, points: Sequence[Point]) -> Line:
    """A line of at most ``MOST_POINTS`` points; of more, means with the range they stand for."""
    ordered = sorted(points, key=lambda point: point.kimg)
    if len(ordered) <= MOST_POINTS:
        return Line(run, tuple(ordered))
    edges = [len(ordered) * i // MOST_POINTS for i in range(MOST_POINTS + 1)]
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
    return min(max(sum(values) / len(values), min(values)), max(values))  # rounding must not leave
