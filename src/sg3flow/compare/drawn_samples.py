"""A comparison in the terminal, and the images of its runs for the page."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sg3flow.compare.comparison import Comparison, MetricRow
from sg3flow.compare.run_data import RunData, letter, value_text
from sg3flow.device import pick_device
from sg3flow.errors import Sg3flowError
from sg3flow.rendering.images import Image, RenderOptions, check_seed
from sg3flow.rendering.outputs import captions, load_model, pictures

_STYLES = {"better": "green", "worse": "red", "within noise": "dim"}
_NAMES, _CELL = 20, 15  # width in characters of the name column and of each run
_LARGEST = 224  # side in pixels on the page; larger images are scaled down
_AS_PNG = 96  # images up to this side are stored as PNG, which is lossless


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
