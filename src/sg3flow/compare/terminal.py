"""A comparison for a terminal: a line a run, and tables of what differs and how it was judged."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sg3flow.compare.comparison import Comparison
from sg3flow.compare.facts import letter
from sg3flow.compare.metric_table import MetricRow
from sg3flow.compare.numbers import value_text

_STYLES = {"better": "green", "worse": "red", "within noise": "dim"}
_NAMES, _CELL = 20, 15  # columns of text that a table's names and each of its runs want


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the runs, what differs, and the verdicts; wide comparisons as several tables."""
    # Text, not str: names and settings are shown as they are, never as markup.
    for index, run in enumerate(comparison.runs):
        line = f"{letter(index)}  {run.name} ({run.kind} {run.address}), {run.state}"
        console.print(Text(line), soft_wrap=True)
    rows = list(_rows(comparison))
    for columns in _groups(len(comparison.runs), console.width):
        table = Table("", *(letter(column) for column in columns))
        for name, cells in rows:
            table.add_row(Text(name, overflow="fold"), *(cells[column] for column in columns))
        if rows:
            console.print(table)
    for note in _notes(comparison):
        console.print(Text(note), soft_wrap=True)


def _groups(count: int, width: int) -> Iterator[list[int]]:
    """The runs of each table; the first one, with which all are compared, is in every table."""
    others = max((width - _NAMES) // _CELL - 1, 1)
    for start in range(1, count, others):
        yield [0, *range(start, min(start + others, count))]


def _rows(comparison: Comparison) -> Iterator[tuple[str, Sequence[Text]]]:
    for row in (*comparison.params, *comparison.environment):
        values = ["not recorded" if value is None else value or "empty" for value in row.values]
        yield row.name, [Text(value, overflow="fold") for value in values]
    for metric in comparison.metrics:
        yield metric.metric, _metric_cells(metric)
    if comparison.common is not None:
        age, rows = comparison.common
        for metric in rows:
            yield f"{metric.metric} at {age} kimg", _metric_cells(metric)


def _metric_cells(row: MetricRow) -> list[Text]:
    cells = []
    for cell, verdict in zip(row.cells, row.verdicts, strict=True):
        text = Text(value_text(cell) if cell else "-")
        if verdict is not None:
            text.append(f"\n{verdict.word}", _STYLES.get(verdict.word, "yellow"))
        cells.append(text)
    return cells


def _notes(comparison: Comparison) -> Iterator[str]:
    for index, run in enumerate(comparison.runs):
        yield from (f"{letter(index)}: {note}" for note in run.notes)
    for row in comparison.metrics:
        for index, verdict in enumerate(row.verdicts):
            if verdict is not None and verdict.word == "not comparable":
                yield f"{letter(index)}: {row.metric} is not comparable, {verdict.reason}"
    yield from comparison.gaps
    if comparison.headline:
        yield comparison.headline
