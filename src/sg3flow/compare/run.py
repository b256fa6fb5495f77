"""`sg3flow compare`: from names of runs to a page and a table."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sg3flow.compare.comparison import compare
from sg3flow.compare.page import html_page, refuse_foreign_page
from sg3flow.compare.page_style import MOST_RUNS
from sg3flow.compare.samples import Drawn, draw_all
from sg3flow.compare.sources import find_all
from sg3flow.compare.terminal import print_comparison
from sg3flow.errors import ConfigError
from sg3flow.files import write_text
from sg3flow.project import project_root
from sg3flow.rendering.seeds import parse_seeds

_MOST_SEEDS = 64


@dataclass(frozen=True)
class Request:
    """What is to be compared, and how it is shown.

    Attributes:
        runs: names of runs, as ``find_facts`` takes them.
        out: the page.
        best_by: metric that chooses each run's best snapshot; empty: the one it was evaluated by.
        seeds: of the pictures, ``0-5``; empty: no pictures.
        psi: truncation strength of the pictures.
        class_index: class of the pictures; None: the classes in turn.
        device: where they are drawn.
    """

    runs: Sequence[str]
    out: Path
    best_by: str = ""
    seeds: str = "0-5"
    psi: float = 1.0
    class_index: int | None = None
    device: str = "auto"


def write_comparison(request: Request) -> Path:
    """Compare runs: print a table, write the page; returns its place.

    Raises:
        ConfigError: too few or too many runs or seeds.
        DataError: a run that is not found, or something else stands where the page is to be.
        TrackingError: a run that is not found, or the tracking server does not answer.
    """
    from rich.console import Console

    seeds = _seeds(request.seeds)
    if not 2 <= len(request.runs) <= MOST_RUNS:
        raise ConfigError(f"name 2 to {MOST_RUNS} runs to compare, not {len(request.runs)}")
    refuse_foreign_page(request.out)
    root = project_root()
    with tempfile.TemporaryDirectory() as folder:
        runs = find_all(request.runs, root, request.best_by, Path(folder))
        comparison = compare(runs)
        drawn: list[Drawn] = []
        if seeds:
            drawn = draw_all(runs, seeds, request.psi, request.class_index, request.device)
    write_text(request.out, html_page(comparison, drawn, _look(request)))
    print_comparison(comparison, Console())
    return request.out


def _seeds(text: str) -> list[int]:
    seeds = list(dict.fromkeys(parse_seeds(text))) if text.strip() else []
    if len(seeds) > _MOST_SEEDS:
        raise ConfigError(f"at most {_MOST_SEEDS} seeds stand side by side, not {len(seeds)}")
    return seeds


def _look(request: Request) -> str:
    known = request.class_index
    classes = "classes in turn where a network knows any" if known is None else f"class {known}"
    return f"Seeds {request.seeds}, psi {request.psi:g}, {classes}; each run at its judged snapshot"
