"""A comparison as one HTML page that opens offline and needs nothing beside it."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from sg3flow.compare.chart_svg import chart_svg
from sg3flow.compare.comparison import Comparison
from sg3flow.compare.curves import Chart
from sg3flow.compare.differences import Difference
from sg3flow.compare.facts import Facts, letter
from sg3flow.compare.metric_table import MetricRow, Row
from sg3flow.compare.numbers import value_text
from sg3flow.compare.page_style import STYLE
from sg3flow.compare.samples import Drawn
from sg3flow.errors import DataError
from sg3flow.metrics.verdict import Verdict

_GENERATOR = '<meta name="generator" content="sg3flow compare">'
# Whatever a name or a setting says, the page asks nothing of the network and runs nothing.
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
)
_FEW = 4  # runs whose names fit into the heads of tables
_CLASSES = {"better": "passed", "worse": "failed", "within noise": "noise"}


def refuse_foreign_page(path: Path) -> None:
    """Check that nothing but a page of this kind stands where one is to be written.

    Raises:
        DataError: something else stands there.
    """
    if path.exists() and (path.is_dir() or _GENERATOR.encode() not in path.read_bytes()[:4096]):
        raise DataError(f"{path} exists and is no page of sg3flow compare; choose another --out")


def html_page(comparison: Comparison, drawn: Sequence[Drawn], look: str) -> str:
    """The page.

    Args:
        comparison: what is said.
        drawn: the pictures of each run; empty: none were asked for.
        look: how they were drawn, in words.
    """
    runs = comparison.runs
    parts = [
        _header(comparison),
        _runs(runs),
        _metrics(comparison),
        _differences("Settings that differ", comparison.params, runs, comparison.gaps),
        _differences("Surroundings that differ", comparison.environment, runs),
        _pictures(runs, drawn, look),
        _charts(comparison.charts, runs),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{_GENERATOR}\n{_POLICY}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{len(runs)} runs compared</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(comparison: Comparison) -> str:
    outcome = comparison.headline or "Nothing was measured that could be compared."
    return (
        '<header><p class="kicker">Comparison of runs</p>'
        f"<h1>{len(comparison.runs)} runs</h1>"
        f'<p class="verdict">{escape(outcome)}</p></header>'
    )


def _runs(runs: Sequence[Facts]) -> str:
    return f'<section class="tiles runs">{"".join(map(_run, range(len(runs)), runs))}</section>'


def _run(index: int, run: Facts) -> str:
    snapshot = run.snapshot
    age = f"at {snapshot.kimg:g} kimg, " if snapshot and snapshot.kimg is not None else ""
    judged = f"<small>judged {age}{escape(snapshot.chosen)}</small>" if snapshot else ""
    notes = "".join(f'<small class="note">{escape(note)}</small>' for note in run.notes)
    return (
        f'<div class="tile">{_tag(index)}<strong>{escape(run.name)}</strong>'
        f"<small>{escape(run.kind)} <code>{escape(run.address)}</code></small>"
        f"<small>{escape(run.state)}</small>{judged}{notes}</div>"
    )


def _tag(index: int) -> str:
    """The letter of a run in its colour, with the dash of its line."""
    return (
        f'<span class="tag t{index}">{letter(index)}<svg viewBox="0 0 30 6" aria-hidden="true">'
        f'<g class="r{index}"><polyline points="0,3 30,3"/></g></svg></span>'
    )


def _metrics(comparison: Comparison) -> str:
    rows, runs = comparison.metrics, comparison.runs
    if not rows:
        return (
            '<section class="card"><h2>Metrics</h2><p class="meta">No run was measured: run '
            "stages/evaluate.py for each.</p></section>"
        )
    common = ""
    if comparison.common is not None:
        age, at_age = comparison.common
        common = f"<h3>All at {age} kimg, the most that all were measured at</h3>"
        common += _metric_table(at_age, runs)
    return (
        '<section class="card"><h2>Metrics</h2><p class="meta">Each run at its best snapshot, with '
        "its standard error; verdicts are against A. Noise reaches to twice the combined standard "
        "error, the scatter of drawing other pictures: a smaller difference says nothing. What "
        f"another training seed would change is not in it.</p>{_metric_table(rows, runs)}{common}"
        "</section>"
    )


def _metric_table(rows: Iterable[MetricRow], runs: Sequence[Facts]) -> str:
    body = "".join(_metric_row(row) for row in rows)
    return (
        '<div class="scroll"><table class="wide"><thead><tr><th>metric</th>'
        f"{_heads(runs)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _metric_row(row: MetricRow) -> str:
    known = next(cell for cell in row.cells if cell is not None)
    better = {True: "higher is better", False: "lower is better", None: "direction not recorded"}
    arrow = better[known.get("higher_is_better")]
    cells = []
    for cell, verdict in zip(row.cells, row.verdicts, strict=True):
        cells.append(f"<td>{_number(cell)}{_badge(verdict)}</td>")
    name = f"<td>{escape(row.metric)}<small>{arrow}</small></td>"
    return f"<tr>{name}{''.join(cells)}</tr>"


def _number(cell: Row | None) -> str:
    if cell is None:
        return '<span class="soft">-</span>'
    age = cell.get("kimg")
    words = f" <small>at {age} kimg</small>" if isinstance(age, int) else ""
    return f"{escape(value_text(cell))}{words}"


def _badge(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    kind = _CLASSES.get(verdict.word, "warning")
    return (
        f'<div><span class="badge {kind}">{escape(verdict.word)}</span>'
        f"<small>{escape(verdict.reason)}</small></div>"
    )


def _heads(runs: Sequence[Facts]) -> str:
    """The letters, and the names where there is room for them; they stand on top of the page."""
    named = len(runs) <= _FEW
    return "".join(
        f'<th title="{escape(run.name)}">{_tag(index)}'
        + (f"<small>{escape(run.name)}</small></th>" if named else "</th>")
        for index, run in enumerate(runs)
    )


def _differences(
    title: str, rows: Sequence[Difference], runs: Sequence[Facts], gaps: Sequence[str] = ()
) -> str:
    notes = "".join(f'<p class="meta">{escape(gap)}</p>' for gap in gaps)
    if not rows:
        return f'<section class="card"><h2>{title}</h2><p class="meta">None.</p>{notes}</section>'
    body = "".join(
        f"<tr><td><code>{escape(row.name)}</code></td>{''.join(map(_value, row.values))}</tr>"
        for row in rows
    )
    return (
        f'<section class="card"><h2>{title}</h2><div class="scroll"><table class="wide"><thead>'
        f"<tr><th></th>{_heads(runs)}</tr></thead><tbody>{body}</tbody></table></div>{notes}"
        "</section>"
    )


def _value(value: str | None) -> str:
    if value is None:
        return '<td class="soft">not recorded</td>'
    return f"<td>{escape(value) or 'empty'}</td>"


def _pictures(runs: Sequence[Facts], drawn: Sequence[Drawn], look: str) -> str:
    if not drawn:
        return ""
    rows = "".join(_picture_row(i, run, drawn[i]) for i, run in enumerate(runs))
    return (
        f'<section class="card"><h2>The same seeds</h2><p class="meta">{escape(look)}</p>'
        f'<div class="scroll"><table class="samples"><tbody>{rows}</tbody></table></div></section>'
    )


def _picture_row(index: int, run: Facts, drawn: Drawn) -> str:
    kimg = run.snapshot.kimg if run.snapshot else None
    age = f"<small>{kimg:g} kimg</small>" if kimg is not None else ""
    head = f"<th>{_tag(index)}{age}</th>"
    if drawn.reason:
        return f'<tr>{head}<td class="why" colspan="99">{escape(drawn.reason)}</td></tr>'
    small = ' class="pixels"' if drawn.side <= 96 else ""
    cells = "".join(
        f'<td><img{small} src="{uri}" alt="{letter(index)}, {escape(caption)}">'
        f"<small>{escape(caption)}</small></td>"
        for uri, caption in zip(drawn.pictures, drawn.captions, strict=True)
    )
    return f"<tr>{head}{cells}</tr>"


def _charts(charts: Sequence[Chart], runs: Sequence[Facts]) -> str:
    if not charts:
        return (
            '<section class="card"><h2>Curves</h2><p class="meta">No run has two reports yet.'
            "</p></section>"
        )
    legend = "".join(
        f"<span>{_tag(index)} {escape(run.name)}</span>" for index, run in enumerate(runs)
    )
    figures = "".join(
        f'<figure class="plot"><figcaption>{escape(chart.title)}</figcaption>{chart_svg(chart)}'
        + "".join(f'<p class="meta">{escape(note)}</p>' for note in chart.notes)
        + "</figure>"
        for chart in charts
    )
    return (
        '<section class="card"><h2>Curves</h2>'
        f'<div class="legend">{legend}</div><div class="plots">{figures}</div></section>'
    )
