"""The validation report as an HTML page: problems first, then an overview of the set."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sg3flow.data.image_decoding import UnusableImageError, decode_image, to_rgb_or_gray
from sg3flow.data.readers.listing import ignored_words
from sg3flow.data.readers.storage import Storage
from sg3flow.data.validation.checks import FORMAT, Check, Offender, Report
from sg3flow.errors import DataError
from sg3flow.files import write_json, write_text
from sg3flow.output_checks import check_distinct, check_replaceable, html_marked, json_marked
from sg3flow.reports.charts import histogram_svg
from sg3flow.reports.pages import data_uri, render_page

_GENERATOR = "sg3flow validation"
_MAX_ROWS = 200
_MAX_SHOWN = 16  # thumbnails per check
_MAX_THUMBNAILS = 160
_THUMBNAIL = 112  # side in pixels
_MAX_ON_SHEET = 54
_MAX_CLASSES_ON_SHEET = 18
_ON_SHEET = 72  # side in pixels
_SPREADS = {"mean": "Brightness", "contrast": "Contrast", "sharpness": "Sharpness of edges"}
_BAR = 16  # gray values per bar of a histogram
_BADGES = {"passed": "passed", "warning": "warning", "failed": "failed", "error": "crashed"}


def check_report_paths(json_path: Path, html_path: Path) -> None:
    """Check that the two reports may be written.

    Raises:
        DataError: something else is at one of the paths, or both are the same file.
    """
    check_distinct({"--report": json_path, "--html": html_path})
    check_replaceable(json_path, json_marked(FORMAT), "a validation report", "--report")
    check_replaceable(html_path, html_marked(_GENERATOR), "a validation page", "--html")


def write_reports(
    report: Report,
    json_path: Path,
    html_path: Path,
    tracking: Mapping[str, str] | None = None,
) -> None:
    """Write the report as JSON and HTML; equal reports give equal bytes.

    Args:
        tracking: where the stage is tracked, see ``tracking_place``; None: not shown. The run ID
            is not part of it: it is unknown when the report is written.
    """
    write_json(json_path, report.to_json())
    write_text(html_path, html_page(report, tracking))


def html_page(report: Report, tracking: Mapping[str, str] | None = None) -> str:
    """The report as one self-contained HTML page; arguments as in ``write_reports``."""
    summary = report.summary
    shown = thumbnails(report)
    warnings = [check for check in report.checks if check.status == "warning"]
    name = str(report.source.get("dataset") or summary["name"])
    sheet = contact_sheet(report)
    values = {
        "name": name,
        "origin": _origin(report) if report.source else "",
        "verdict": "passed" if report.success else "failed",
        "outcome": _outcome(report),
        "tiles": _tiles(report),
        "badges": _BADGES,
        # Failed checks, which stop the pipeline, come before warnings.
        "troubled": [_troubled(check, shown) for check in (*report.failed, *warnings)],
        "left_out": _listed(report.left_out, shown),
        "left_out_counts": _counts(report.left_out_counts),
        "sheet": sheet,
        "sheet_words": _sheet_words(report, sheet),
        "classes": summary["classes"],
        "most": max(summary["classes"].values(), default=0) or 1,
        "spreads": list(_spreads(summary)),
        "splits": [
            (split, f"{counts['pictures']:,}", f"{counts['packed']:,}")
            for split, counts in summary["splits"].items()
        ],
        "ignored": _ignored(summary.get("ignored")),
        "notices": summary.get("warnings", []),
        "changes": [(rule, f"{count:,}") for rule, count in summary["changes"].items()],
        "checks": report.checks,
        "thumbnails": shown,
        "tracking": tracking,
    }
    return render_page("validation.html", _GENERATOR, f"Validation of {name}", values)


def _ignored(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The files of the source that are no images."""
    if record is None:
        return {"words": "", "files": [], "more": 0}
    shown, total = [(name,) for name in record["files"][:_MAX_ROWS]], sum(record["counts"].values())
    return {"words": ignored_words(record["counts"]), "files": shown, "more": total - len(shown)}


def thumbnails(report: Report) -> dict[str, str]:
    """Thumbnails of the listed images as data URIs, by path or entry; at most 160."""
    sources, found = report.images, dict[str, str]()
    entries = frozenset(sources.packed.names)
    files = frozenset(sources.raw.names) if sources.raw else frozenset()
    for offenders in [*(check.offenders for check in report.checks), report.left_out]:
        for name in [n for each in offenders[:_MAX_SHOWN] for n in (each.path, each.other)]:
            entry = sources.entries.get(name, name)
            if name in found or len(found) >= _MAX_THUMBNAILS:
                continue
            if entry in entries:
                found[name] = _thumbnail(sources.packed, entry, _THUMBNAIL)
            elif sources.raw is not None and name in files:
                found[name] = _thumbnail(sources.raw, name, _THUMBNAIL)
            if not found.get(name):  # unreadable; the report has the reason
                found.pop(name, None)
    return found


def contact_sheet(report: Report) -> list[dict[str, Any]]:
    """A sample of at most 54 packed images by class; the same set gives the same sample.

    Images are selected by the digest of their name, which acts as a fixed random order.
    """
    sources, groups = report.images, []
    classes = list(sources.classes.items())[:_MAX_CLASSES_ON_SHEET]
    each = max(_MAX_ON_SHEET // max(len(classes), 1), 1)
    for name, entries in classes:
        chosen = sorted(sorted(entries, key=_digest)[:each])
        pictures = [(entry, _thumbnail(sources.packed, entry, _ON_SHEET)) for entry in chosen]
        usable = [(entry, uri) for entry, uri in pictures if uri]
        small = any(int(size.partition("x")[0]) < _ON_SHEET for size in report.summary["sizes"])
        if usable:
            groups.append({"name": name, "pictures": usable, "pixels": small})
    return groups


def _sheet_words(report: Report, sheet: list[dict[str, Any]]) -> str:
    shown = sum(len(group["pictures"]) for group in sheet)
    total = sum(map(len, report.images.classes.values()))
    if shown == total:
        return f"All {total:,} packed images."
    left = len(report.images.classes) - len(sheet)
    words = f"; {left:,} more classes are not shown" if left else ""
    return f"{shown} of the {total:,} packed images, a fixed sample{words}."


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _thumbnail(storage: Storage, name: str, side: int) -> str:
    try:
        return data_uri(to_rgb_or_gray(decode_image(storage.read(name)).image).image, side)
    except (DataError, UnusableImageError):
        return ""


def _origin(report: Report) -> str:
    """Name of the packed set, origin and citation of its source."""
    known = [report.summary["name"], report.source.get("origin"), report.source.get("citation")]
    return " · ".join(str(part) for part in known if part)


def _outcome(report: Report) -> str:
    counts = Counter(_BADGES[check.status] for check in report.checks)
    text = ", ".join(
        f"{counts[word]} {word}" + "s" * (word == "warning" and counts[word] != 1)
        for word in ("failed", "crashed", "warning", "passed")
        if counts[word]
    )
    words = "ready for training" if report.success else "not ready for training"
    return f"{words}: {text} of {len(report.checks)} checks"


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Label, value and note of each tile."""
    summary = report.summary
    left_out = sum(report.left_out_counts.values())
    return [
        ("images", f"{summary['num_images']:,}", f"of {summary['num_source']:,} in the source"),
        ("form", " + ".join(summary["sizes"]) or "none", _raw_sizes(summary["raw_sizes"])),
        ("classes", str(len(summary["classes"]) or "none"), _names(summary["classes"])),
        ("excluded", f"{left_out:,}", _counts(report.left_out_counts)),
        ("license", summary["licence"] or "not recorded", ""),
        ("SHA-256", (summary["digest"] or "not readable")[:10], "of the content"),
    ]


def _raw_sizes(sizes: Mapping[str, int]) -> str:
    return "from " + _names(sizes, 3) if sizes else ""


def _names(names: Iterable[str], most: int = 12) -> str:
    known = list(names)
    return ", ".join(known[:most]) + ", ..." * (len(known) > most)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def _troubled(check: Check, shown: Mapping[str, str]) -> dict[str, Any]:
    """A check that did not pass, with the images it lists."""
    known = {key: getattr(check, key) for key in ("name", "status", "words", "observed")}
    return known | {"threshold": check.threshold, "listed": _listed(check.offenders, shown)}


def _listed(offenders: list[Offender], shown: Mapping[str, str]) -> dict[str, Any]:
    """The listed images as a table, and as figures if they have thumbnails."""
    # Images that were not packed have no entry.
    cells = 3 if any(offender.entry for offender in offenders) else 2
    return {
        "count": len(offenders),
        "figures": [_figure(offender) for offender in _pictured(offenders, shown)],
        "head": ("path", "reason", "entry")[:cells],
        "rows": [(o.path, o.reason, o.entry)[:cells] for o in offenders[:_MAX_ROWS]],
        "more": max(len(offenders) - _MAX_ROWS, 0),
    }


def _pictured(offenders: list[Offender], shown: Mapping[str, str]) -> list[Offender]:
    """Images with a thumbnail; one of each pair that lists each other."""
    pairs: dict[frozenset[str], Offender] = {}
    for offender in offenders[:_MAX_SHOWN]:
        if offender.path in shown or offender.other in shown:
            pairs.setdefault(frozenset({offender.path, offender.other}), offender)
    return list(pairs.values())


def _figure(offender: Offender) -> dict[str, Any]:
    names = [offender.path] + [offender.other] * bool(offender.other)
    reason = offender.reason
    if offender.other:  # its name is in the caption already
        reason = reason.replace(offender.other, "the right one")
    # The last two folders and the name: short enough for a caption and usually unique.
    tails = ["/".join(name.split("/")[-3:]) for name in names]
    return {"names": names, "tails": tails, "reason": reason}


def _spreads(summary: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Title, chart and range of each known image statistic."""
    for key, words in _SPREADS.items():
        spread = summary[key]
        if spread["max"] is not None:
            text = (
                f"minimum {spread['min']:.1f}, median {spread['median']:.1f}, "
                f"maximum {spread['max']:.1f} of 255"
            )
            yield words, histogram_svg(spread["counts"], words, _BAR), text
