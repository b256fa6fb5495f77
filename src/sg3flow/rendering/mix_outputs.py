"""Style mixing from a network to image files: a sheet, and an image per pair.

The files and options are those of the public script for style mixing; rows and columns may also be
own w.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sg3flow.config import RenderMixConfig
from sg3flow.errors import ConfigError
from sg3flow.files import write_bytes
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, given_condition
from sg3flow.rendering.edit_options import edits_of, with_edits
from sg3flow.rendering.edits import edited_w
from sg3flow.rendering.grid import table_sheet
from sg3flow.rendering.images import Image, Model, load_model, png_bytes, seed_ws
from sg3flow.rendering.mixing import mix_styles, parse_layers
from sg3flow.rendering.outputs import GRID_NAME, check_pictures, render_options_of
from sg3flow.rendering.seeds import MAX_SEEDS, RenderOptions, parse_seeds
from sg3flow.rendering.w_files import W, read_w
from sg3flow.rendering.w_outputs import refuse_options_of_seeds

_ENDINGS = (".npz", ".npy")


@dataclass(frozen=True)
class Side:
    """The rows or the columns: ``ws`` [K, num_ws, w_dim], and a name, caption and seed for each.

    The seed is that of random noise.
    """

    ws: W
    names: list[str]
    captions: list[str]
    seeds: list[int]


def render_mix(
    source: str, outdir: Path, config: RenderMixConfig, class_index: int | None = None
) -> Path:
    """Write ``grid.png``, and ``ROW-COLUMN.png`` for each image of it; returns the sheet.

    The left column and the top row of the sheet are the rows' and columns' own images, with the
    files ``ROW-ROW.png`` and ``COLUMN-COLUMN.png``. A name is a seed; or ``r0``, ``c0`` and so on
    for the own w of rows and columns.

    Raises:
        ConfigError: invalid settings, or layers or w that do not fit the network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: a file of w cannot be read, or an output path is taken by a foreign file.
    """
    options = render_options_of(config, config.trunc)
    if _is_file(config.rows) and _is_file(config.cols):
        refuse_options_of_seeds(config, class_index, "give seeds, or leave it out")
    condition, edits = given_condition(class_index, config.label), edits_of(config)
    model = load_model(source, config.device)
    options = with_edits(options, model, edits, config.directions)
    layers = parse_layers(config.styles, model.G.num_ws)
    base, styles = (
        read_w(Path(text), model.G) if _is_file(text) else _seeds(text)
        for text in (config.rows, config.cols)
    )
    rows, columns = sides_of(model, base, styles, options, model.usable(condition))
    pairs = [(name, name) for name in (*rows.names, *columns.names)]
    pairs += itertools.product(rows.names, columns.names)
    paths = {f"{a}-{b}": outdir / f"{a}-{b}.png" for a, b in pairs}
    check_pictures(outdir / GRID_NAME, *paths.values())
    table = _table(model, rows, columns, layers, options, paths)
    images = tracked(table, "mixing styles", len(pairs))
    sheet = table_sheet(
        _with_corner(images, model.G.img_resolution),
        ["", *rows.captions],
        ["", *columns.captions],
        model.G.img_resolution,
    )
    write_bytes(outdir / GRID_NAME, png_bytes(sheet))
    return outdir / GRID_NAME


def mixed_images(
    model: Model, rows: Side, columns: Side, layers: Sequence[int], options: RenderOptions
) -> Iterator[Image]:
    """The mixed images, row by row; random noise is that of the row's seed."""
    for i, row in enumerate(rows.ws):  # one row at a time: all would take much memory
        for mixed in mix_styles(row[None], columns.ws, layers)[0]:
            yield model.w_picture(mixed, options, rows.seeds[i])


def sides_of(
    model: Model,
    rows: Sequence[int] | W,
    columns: Sequence[int] | W,
    options: RenderOptions,
    condition: Condition,
) -> tuple[Side, Side]:
    """Rows and columns of seeds, or of own w [K, num_ws, w_dim], with the edit.

    A seed in both has the same class in both: that of its place among all seeds, if none is given.

    Raises:
        ConfigError: they give more than 100,000 images.
    """
    if len(rows) * len(columns) > MAX_SEEDS:
        raise ConfigError(f"rows and columns give more than {MAX_SEEDS} images; use fewer")
    seeds = [seed for side in (rows, columns) if not isinstance(side, np.ndarray) for seed in side]
    seeds = list(dict.fromkeys(seeds))
    conditions = dict(zip(seeds, model.conditions(seeds, condition), strict=True))

    def side_of(given: Sequence[int] | W, letter: str) -> Side:
        if isinstance(given, np.ndarray):
            return _w_side(edited_w(given, options.edit), letter)
        return _seed_side(model, [(seed, conditions[seed]) for seed in given], options)

    return side_of(rows, "r"), side_of(columns, "c")


def _seed_side(
    model: Model, pairs: Sequence[tuple[int, Condition]], options: RenderOptions
) -> Side:
    with model.named():
        ws = [seed_ws(model.G, seed, options, one).cpu().numpy() for seed, one in pairs]
    captions = [model.caption(*pair) for pair in pairs]
    return Side(np.concatenate(ws), [str(s) for s, _ in pairs], captions, [s for s, _ in pairs])


def _w_side(ws: W, letter: str) -> Side:
    numbers = range(len(ws))
    names, captions = [f"{letter}{i}" for i in numbers], [f"w {i}" for i in numbers]
    return Side(ws, names, captions, list(numbers))


def _table(
    model: Model,
    rows: Side,
    columns: Side,
    layers: Sequence[int],
    options: RenderOptions,
    paths: dict[str, Path],
) -> Iterator[Image]:
    """The images of the sheet after its empty corner, row by row; each is also written."""
    mixed = mixed_images(model, rows, columns, layers, options)

    def written(name: str, image: Image) -> Image:
        write_bytes(paths[name], png_bytes(image))
        return image

    def own(side: Side, i: int) -> Image:
        image = model.w_picture(side.ws[i], options, side.seeds[i])
        return written(f"{side.names[i]}-{side.names[i]}", image)

    yield from (own(columns, i) for i in range(len(columns.names)))
    for i, row in enumerate(rows.names):
        yield own(rows, i)
        for column, image in zip(columns.names, mixed, strict=False):
            yield written(f"{row}-{column}", image)


def _with_corner(images: Iterator[Image], resolution: int) -> Iterator[Image]:
    yield np.full((resolution, resolution, 3), 255, np.uint8)
    yield from images


def _is_file(text: str) -> bool:
    return text.strip().lower().endswith(_ENDINGS)


def _seeds(text: str) -> list[int]:
    return list(dict.fromkeys(parse_seeds(text)))
