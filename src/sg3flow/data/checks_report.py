"""The validation report as a page of its own: opens offline, needs nothing beside it."""

from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from sg3flow.data.checks import FORMAT, Check, Offender, Report
from sg3flow.data.outputs import check_distinct
from sg3flow.data.report_style import STYLE
from sg3flow.data.thumbnails import MOST_SHOWN
from sg3flow.errors import DataError
from sg3flow.files import write_json, write_text

_MOST_ROWS = 200
_GENERATOR = '<meta name="generator" content="sg3flow validation">'
_SPREADS = {"mean": "Brightness", "contrast": "Contrast", "sharpness": "Sharpness of edges"}
_BADGES = {"passed": "passed", "warning": "warning", "failed": "failed", "error": "crashed"}


def refuse_foreign_reports(json_path: Path, html_path: Path) -> None:
    """Check that nothing but reports of this kind stand where they are to be written.

    Raises:
        DataError: something else stands there, or both are one file.
    """
    check_distinct({"--report": json_path, "--html": html_path})
    for path, mark in ((json_path, f'"format": "{FORMAT}"'), (html_path, _GENERATOR)):
        if not path.exists():
            continue
        if path.is_dir() or mark.encode() not in path.read_bytes()[:4096]:
            raise DataError(f"{path} exists and is no validation report; it is not replaced")


def write_reports(report: Report, json_path: Path, html_path: Path) -> None:
    """Write a report for machines and for people; equal reports give equal bytes."""
    write_json(json_path, report.to_json())
    write_text(html_path, html_page(report))


def require_success(report: Report, html_path: Path) -> str:
    """One line for people that says how validation went.

    Raises:
        DataError: it failed; the message names the failed checks and the first offender.
    """
    if report.success:
        warnings = [check.name for check in report.checks if check.status == "warning"]
        noted = f", warnings: {', '.join(warnings)}" if warnings else ""
        count = report.summary["num_images"]
        return f"{count} pictures passed {len(report.checks)} checks{noted}; see {html_path}"
    names = ", ".join(check.name for check in report.failed)
    first = next((check for check in report.failed if check.offenders), report.failed[0])
    offender = (
        f"{first.offenders[0].path}: {first.offenders[0].reason}"
        if first.offenders
        else f"{first.words}, found {first.observed}"
    )
    raise DataError(
        f"validation failed ({names}); first {offender}. All of it, with pictures: {html_path}"
    )


def html_page(report: Report) -> str:
    """The report as one self-contained HTML page."""
    name = escape(report.summary["name"])
    # What ends the pipeline comes before what is only told.
    troubled = [*report.failed, *(check for check in report.checks if check.status == "warning")]
    body = [
        _header(report),
        _tiles(report),
        _contents(troubled),
        *(_trouble(check, report.thumbnails) for check in troubled),
        _left_out(report),
        _class_bars(report.summary["classes"]),
        _spreads(report.summary),
        _splits(report.summary["splits"]),
        _changes(report.summary["changes"]),
        _all_checks(report.checks),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{_GENERATOR}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Validation of {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(report: Report) -> str:
    counts = Counter(_BADGES[check.status] for check in report.checks)
    told = ", ".join(
        f"{counts[word]} {word}" + "s" * (word == "warning" and counts[word] != 1)
        for word in ("failed", "crashed", "warning", "passed")
        if counts[word]
    )
    verdict = "passed" if report.success else "failed"
    words = "fit to train on" if report.success else "not fit to train on"
    return (
        f'<header class="{verdict}"><p class="kicker">Data validation</p>'
        f"<h1>{escape(report.summary['name'])}</h1>"
        f'<p class="verdict"><span class="badge {verdict}">{verdict}</span> {words}: '
        f"{told} of {len(report.checks)} checks</p></header>"
    )


def _tiles(report: Report) -> str:
    summary = report.summary
    left_out = sum(report.left_out_counts.values())
    tiles = [
        ("pictures", f"{summary['num_images']:,}", f"of {summary['num_source']:,} in the source"),
        ("form", " + ".join(summary["sizes"]) or "none", _raw_sizes(summary["raw_sizes"])),
        ("classes", str(len(summary["classes"]) or "none"), ", ".join(summary["classes"])),
        ("left out", f"{left_out:,}", _counts(report.left_out_counts)),
        ("licence", summary["licence"] or "not recorded", ""),
        ("SHA-256", (summary["digest"] or "not readable")[:10], "of the content"),
    ]
    cells = "".join(
        f'<div class="tile"><span>{escape(label)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(note)}</small></div>"
        for label, value, note in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _raw_sizes(sizes: dict[str, int]) -> str:
    return "from " + ", ".join(list(sizes)[:3]) + (", ..." * (len(sizes) > 3)) if sizes else ""


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def _contents(troubled: list[Check]) -> str:
    if len(troubled) < 2:
        return ""
    items = "".join(
        f'<li><a href="#{check.name}">{_badge(check.status)} {escape(check.words)}</a></li>'
        for check in troubled
    )
    return f'<nav class="card"><ul>{items}</ul></nav>'


def _trouble(check: Check, thumbnails: dict[str, str]) -> str:
    return (
        f'<section class="card {check.status}" id="{check.name}">'
        f"<h2>{_badge(check.status)} {escape(check.words)}</h2>"
        f'<p class="meta"><code>{check.name}</code> observed: {escape(check.observed)}'
        f"{_threshold(check)}</p>{_offenders(check.offenders, thumbnails)}</section>"
    )


def _offenders(offenders: list[Offender], thumbnails: dict[str, str]) -> str:
    if not offenders:
        return ""
    pictures = "".join(_figure(offender, thumbnails) for offender in _shown(offenders, thumbnails))
    figures = f'<div class="pictures">{pictures}</div>' if pictures else ""
    # What was never packed has no entry.
    cells = 3 if any(offender.entry for offender in offenders) else 2
    head = ("path", "reason", "entry")[:cells]
    rows = [(o.path, o.reason, o.entry)[:cells] for o in offenders[:_MOST_ROWS]]
    more = len(offenders) - _MOST_ROWS
    rest = f"<p>and {more:,} more, all in validation.json</p>" if more > 0 else ""
    is_open = " open" if len(offenders) <= 12 else ""
    return (
        f"{figures}<details{is_open}><summary>{len(offenders):,} listed</summary>"
        f'<div class="scroll wide">{_table(head, rows)}</div>{rest}</details>'
    )


def _shown(offenders: list[Offender], thumbnails: dict[str, str]) -> list[Offender]:
    """Those with a thumbnail; of two that name each other, one."""
    pairs: dict[frozenset[str], Offender] = {}
    for offender in offenders[:MOST_SHOWN]:
        if offender.path in thumbnails or offender.other in thumbnails:
            pairs.setdefault(frozenset({offender.path, offender.other}), offender)
    return list(pairs.values())


def _figure(offender: Offender, thumbnails: dict[str, str]) -> str:
    pair = [offender.path] + [offender.other] * bool(offender.other)
    images = "".join(
        f'<img src="{thumbnails[name]}" alt="{escape(name)}" title="{escape(name)}">'
        if name in thumbnails
        else f'<span class="missing" title="{escape(name)}">no thumbnail</span>'
        for name in pair
    )
    names = "<br>".join(escape(_tail(name)) for name in pair)
    told = offender.reason
    if offender.other:  # its name stands there already
        told = told.replace(offender.other, "the right one")
    reason = f"<em>{escape(told)}</em>"
    return (
        f'<figure><div class="pair">{images}</div><figcaption>{names}{reason}</figcaption></figure>'
    )


def _tail(path: str) -> str:
    """The last folder and the name: what tells pictures apart, and short enough for a caption."""
    return "/".join(path.split("/")[-3:])


def _left_out(report: Report) -> str:
    if not report.left_out:
        return ""
    return (
        '<section class="card"><h2>Left out of the packed set</h2><p class="meta">'
        f"{escape(_counts(report.left_out_counts))}. Listed: duplicates and what could not be used."
        f"</p>{_offenders(report.left_out, report.thumbnails)}</section>"
    )


def _class_bars(classes: dict[str, int]) -> str:
    if not classes:
        return ""
    most = max(*classes.values(), 1)
    rows = "".join(
        f'<div class="bar"><span>{escape(name)}</span><div><i style="width:{100 * n / most:.1f}%">'
        f"</i></div><b>{n:,}</b></div>"
        for name, n in classes.items()
    )
    return (
        f'<section class="card"><h2>Pictures a class</h2><div class="bars">{rows}</div></section>'
    )


def _spreads(summary: dict[str, Any]) -> str:
    parts = "".join(
        _spread(words, summary[key])
        for key, words in _SPREADS.items()
        if summary[key]["max"] is not None
    )
    if not parts:
        return ""
    return (
        '<section class="card"><h2>Brightness, contrast, sharpness</h2>'
        f'<div class="spreads">{parts}</div></section>'
    )


def _spread(words: str, spread: dict[str, Any]) -> str:
    most = max(*spread["counts"], 1)
    bars = "".join(
        f'<rect x="{i * 20 + 1}" y="{80 - height:.1f}" width="18" height="{height:.1f}" rx="2">'
        f"<title>{i * 16} to {i * 16 + 15}: {n}</title></rect>"
        for i, n in enumerate(spread["counts"])
        for height in [78 * n / most]
    )
    return (
        f'<div><h3>{words}</h3><svg viewBox="0 0 320 81" role="img" aria-label="{words}">{bars}'
        f'<line x1="0" y1="80.5" x2="320" y2="80.5"/></svg><p class="meta">'
        f"least {spread['min']:.1f}, median {spread['median']:.1f}, greatest {spread['max']:.1f} "
        "of 255</p></div>"
    )


def _splits(splits: dict[str, Any]) -> str:
    rows = [
        (name, f"{split['pictures']:,}", f"{split['packed']:,}") for name, split in splits.items()
    ]
    table = _table(("split", "pictures", "packed"), rows)
    return f'<section class="card"><h2>Splits of the source</h2>{table}</section>'


def _changes(changes: dict[str, int]) -> str:
    if not changes:
        return ""
    table = _table(("rule", "pictures"), [(rule, f"{n:,}") for rule, n in changes.items()])
    return f'<section class="card"><h2>Made plain RGB or grey by rule</h2>{table}</section>'


def _all_checks(checks: Iterable[Check]) -> str:
    rows = "".join(
        f"<tr><td>{_badge(check.status)}</td><td>{escape(check.words)}<br><code>{check.name}</code>"
        f" ({check.level})</td><td>{escape(check.observed)}</td></tr>"
        for check in checks
    )
    return (
        '<section class="card"><h2>All checks</h2><div class="scroll"><table class="checks">'
        "<thead><tr><th>result</th><th>expectation</th><th>observed</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _badge(status: str) -> str:
    return f'<span class="badge {status}">{_BADGES[status]}</span>'


def _threshold(check: Check) -> str:
    return "" if check.threshold is None else f", threshold {check.threshold:g}"
