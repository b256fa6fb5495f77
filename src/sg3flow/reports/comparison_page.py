"""`sg3flow compare`: a table in the terminal and an HTML page that works offline."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.compare.comparison import Comparison, MetricRow, compare
from sg3flow.compare.drawn_samples import Drawn, draw_all, print_comparison
from sg3flow.compare.run_data import letter, value_text
from sg3flow.compare.tracked_source import find_all
from sg3flow.errors import ConfigError
from sg3flow.files import write_text
from sg3flow.output_checks import check_replaceable, html_marked
from sg3flow.rendering.images import parse_seeds
from sg3flow.reports.charts import DASHES, MAX_RUNS, curves_svg
from sg3flow.reports.pages import HUES, render_page, tracking_place
from sg3flow.settings import project_root

_GENERATOR = "sg3flow compare"
is_comparison_page = html_marked(_GENERATOR)
_MAX_SEEDS = 64
_FEW = 4  # up to this many runs, table heads show their names
_AS_PIXELS = 96  # up to this side, the page shows sharp pixels
_KINDS = {"better": "passed", "worse": "failed", "within noise": "noise"}


@dataclass(frozen=True)
class Request:
    """The options of a comparison.

    Attributes:
        runs: names of runs, as for ``find_run_data``.
        out: path of the page.
        best_by: metric that selects each best snapshot; empty: that of the report.
        seeds: seeds of the images, ``0-5``; empty: no images.
        psi: truncation psi of the images.
        class_index: class of the images; None: all classes in turn.
        device: device to render on.
    """

    runs: Sequence[str]
    out: Path
    best_by: str = ""
    seeds: str = "0-5"
    psi: float = 1.0
    class_index: int | None = None
    device: str = "auto"


def write_comparison(request: Request) -> Path:
    """Compare runs: print a table and write the page; returns its path.

    Raises:
        ConfigError: too few or too many runs or seeds.
        DataError: a run is not found, or the path of the page is taken by a foreign file.
        TrackingError: a run is not found, or the tracking server does not answer.
    """
    from rich.console import Console

    seeds = _seeds(request.seeds)
    if not 2 <= len(request.runs) <= MAX_RUNS:
        raise ConfigError(f"name 2 to {MAX_RUNS} runs to compare, not {len(request.runs)}")
    check_replaceable(request.out, is_comparison_page, "a comparison page", "--out")
    root = project_root()
    with tempfile.TemporaryDirectory() as folder:
        runs = find_all(request.runs, root, request.best_by, Path(folder))
        comparison = compare(runs)
        drawn: list[Drawn] = []
        if seeds:
            drawn = draw_all(runs, seeds, request.psi, request.class_index, request.device)
    write_text(request.out, html_page(comparison, drawn, _caption(request)))
    print_comparison(comparison, Console())
    return request.out


def html_page(comparison: Comparison, drawn: Sequence[Drawn], caption: str) -> str:
    """The page as text.

    Args:
        comparison: the content.
        drawn: the images of each run; empty: no images.
        caption: how the images were generated.
    """
    names = [run.name for run in comparison.runs]
    values = {
        "comparison": comparison,
        "runs": comparison.runs,
        "heading": " vs. ".join(names) if len(names) <= 2 else f"{len(names)} runs",
        "charts": [(chart, curves_svg(chart, names)) for chart in comparison.charts],
        "seeds": _by_seed(drawn),
        "failures": [(index, each.reason) for index, each in enumerate(drawn) if each.reason],
        "caption": caption,
        "few": _FEW,
        "kinds": _KINDS,
        "hues": HUES,
        "dashes": DASHES,
        "letter": letter,
        "value_text": value_text,
        "direction": _direction,
        "tracking": tracking_place(),
    }
    return render_page("comparison.html", _GENERATOR, f"{len(names)} runs compared", values)


def _by_seed(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """The images of all runs, grouped by seed."""
    groups = []
    for seed in range(max((len(each.pictures) for each in drawn), default=0)):
        pictures = [
            {
                "run": index,
                "uri": each.pictures[seed],
                "caption": each.captions[seed],
                "is_small": each.side <= _AS_PIXELS,
            }
            for index, each in enumerate(drawn)
            if seed < len(each.pictures)
        ]
        groups.append({"pictures": pictures, "caption": pictures[0]["caption"]})
    return groups


def _direction(row: MetricRow) -> str:
    known = next(cell for cell in row.cells if cell is not None)
    words = {True: "higher is better", False: "lower is better", None: "direction unknown"}
    return words[known.get("higher_is_better")]


def _seeds(text: str) -> list[int]:
    seeds = list(dict.fromkeys(parse_seeds(text))) if text.strip() else []
    if len(seeds) > _MAX_SEEDS:
        raise ConfigError(f"at most {_MAX_SEEDS} seeds can be compared, not {len(seeds)}")
    return seeds


def _caption(request: Request) -> str:
    known = request.class_index
    classes = "conditional networks: classes in turn" if known is None else f"class {known}"
    return f"Seeds {request.seeds}, psi {request.psi:g}, {classes}; each run at its best snapshot"
