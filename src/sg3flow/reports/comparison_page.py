"""`sg3flow compare`: a table in the terminal and an HTML page that works offline.

The images on the page are drawn here, from the best snapshot of each run.
"""

import base64
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sg3flow.compare.comparison import Comparison, MetricRow, compare
from sg3flow.compare.run_data import RunData, letter, value_text
from sg3flow.compare.tracked_source import find_all
from sg3flow.device import pick_device
from sg3flow.errors import ConfigError, Sg3flowError
from sg3flow.files import write_text
from sg3flow.output_checks import check_replaceable, html_marked
from sg3flow.rendering.images import Image, captions, load_model, pictures
from sg3flow.rendering.seeds import RenderOptions, check_seed, parse_seeds
from sg3flow.reports.charts import DASHES, MAX_RUNS, curves_svg
from sg3flow.reports.pages import HUES, render_page, tracking_place
from sg3flow.settings import project_root

_GENERATOR = "sg3flow compare"
is_comparison_page = html_marked(_GENERATOR)
_MAX_SEEDS = 64
_FEW = 4  # up to this many runs, table heads show their names
_AS_PIXELS = 96  # up to this side, the page shows sharp pixels
_KINDS = {"better": "passed", "worse": "failed", "within noise": "noise"}
_STYLES = {"better": "green", "worse": "red", "within noise": "dim"}
_NAMES, _CELL = 20, 15  # width in characters of the name column and of each run
_LARGEST = 224  # side in pixels on the page; larger images are scaled down
_AS_PNG = 96  # images up to this side are stored as PNG, which is lossless


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


@dataclass(frozen=True)
class Drawn:
    """The images of one run.

    Attributes:
        pictures: data URIs, one per seed; empty: none could be generated.
        captions: one per image.
        side: resolution of the network in pixels.
        reason: why there are no images; empty: there are.
    """

    pictures: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    side: int = 0
    reason: str = ""


def write_comparison(request: Request) -> Path:
    """Compare runs: print a table and write the page; returns its path.

    Raises:
        ConfigError: too few or too many runs or seeds.
        DataError: a run is not found, or the path of the page is taken by a foreign file.
        TrackingError: a run is not found, or the tracking server does not answer.
    """
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


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the runs, what differs, and the metrics; wide comparisons as several tables."""
    # Text, not str: rich must not interpret names and settings as markup.
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
    """The runs of each table; the first run, the baseline, is in every table."""
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
    for cell, result in zip(row.cells, row.results, strict=True):
        text = Text(value_text(cell) if cell else "-")
        if result is not None:
            text.append(f"\n{result.word}", _STYLES.get(result.word, "yellow"))
            if result.how:
                text.append(f", {result.how}", "dim")
        cells.append(text)
    return cells


def _notes(comparison: Comparison) -> Iterator[str]:
    for index, run in enumerate(comparison.runs):
        yield from (f"{letter(index)}: {note}" for note in run.notes)
    for row in comparison.metrics:
        for index, result in enumerate(row.results):
            if result is not None and result.word == "not comparable":
                yield f"{letter(index)}: {row.metric} is not comparable, {result.reason}"
    yield from comparison.gaps
    if comparison.headline:
        yield comparison.headline
    if comparison.too_few:
        yield comparison.too_few


def draw_all(
    runs: Sequence[RunData], seeds: Sequence[int], psi: float, class_index: int | None, device: str
) -> list[Drawn]:
    """The images of all runs; if a snapshot fails, its entry has the reason.

    Args:
        psi: truncation psi.
        class_index: class for conditional networks; None: all classes in turn.

    Raises:
        ConfigError: a seed, psi or device is invalid.
    """
    options = RenderOptions(psi=psi)
    pick_device(device)
    for seed in seeds:
        check_seed(seed)
    return [_draw(run, seeds, options, class_index, device) for run in runs]


def _draw(
    run: RunData, seeds: Sequence[int], options: RenderOptions, class_index: int | None, device: str
) -> Drawn:
    if run.snapshot is None:
        return Drawn(reason="no snapshot found")
    try:
        model = load_model(run.snapshot.source, device)
        one = model.usable(class_index if model.labels.dim else None)
        drawn = pictures(model, seeds, one, options, f"rendering {run.name}")
        uris = tuple(map(_data_uri, drawn))
        return Drawn(uris, tuple(captions(model, seeds, one)), model.G.img_resolution)
    except (Sg3flowError, OSError) as error:
        return Drawn(reason=" ".join(str(error).split()))


def _data_uri(image: Image) -> str:
    pixels = image[:, :, 0] if image.shape[2] == 1 else image  # [H, W] or [H, W, 3]
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels))
    stream = io.BytesIO()
    if picture.width <= _AS_PNG:
        picture.save(stream, "PNG", optimize=True)
        return _uri("png", stream)
    picture.thumbnail((_LARGEST, _LARGEST), PillowImage.Resampling.LANCZOS)
    picture.save(stream, "JPEG", quality=85)
    return _uri("jpeg", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
