"""A comparison as a table for a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sg3flow.compare.comparison import Comparison
from sg3flow.compare.facts import letter
from sg3flow.compare.metric_table import MetricRow
from sg3flow.compare.numbers import value_text

_STYLES = {"better": "green", "worse": "red", "within noise": "dim"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a column a run: what it is, what differs, and how it was judged."""
    # Text, not str: names and settings are shown as they are, never as markup.
    table = Table("", *(letter(index) for index in range(len(comparison.runs))))
    for name, cells in _rows(comparison):
        table.add_row(Text(name), *cells)
    console.print(table)
    for note in _notes(comparison):
        console.print(Text(note))


def _rows(comparison: Comparison) -> Iterator[tuple[str, list[Text]]]:
    runs = comparison.runs
    yield "run", [Text(run.name) for run in runs]
    yield "is", [Text(f"{run.kind} {run.address}") for run in runs]
    yield "state", [Text(run.state) for run in runs]
    for row in (*comparison.params, *comparison.environment):
        values = ["not recorded" if value is None else value or "empty" for value in row.values]
        yield row.name, [Text(value) for value in values]
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
