"""``render sticking``: whether texture sticks to the pixels (Karras et al. 2021, Figure 3).

The same column of pixels of each frame of an interpolation stands beside that of the frame before.
Texture that moves with the object draws slanted and wavy lines; texture that sticks to the pixels
draws horizontal ones.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sg3flow.config import RenderStickingConfig
from sg3flow.errors import ConfigError
from sg3flow.files import write_bytes
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, given_condition
from sg3flow.rendering.edit_options import edits_of, with_edits
from sg3flow.rendering.grid import check_sheet_size
from sg3flow.rendering.images import Image, Model, load_model, png_bytes, seed_ws
from sg3flow.rendering.outputs import check_pictures, render_options_of
from sg3flow.rendering.paths import PathCurve
from sg3flow.rendering.seeds import RenderOptions, parse_seeds

STRIP_NAME = "sticking.png"
_LEAST_SIDE = 256  # smaller images are enlarged
_LINE = (255, 64, 64)  # marks the column in the first image
_GAP = 8


def render_sticking(
    source: str, outdir: Path, config: RenderStickingConfig, class_index: int | None = None
) -> Path:
    """Write ``sticking.png``: the first image with its column marked, and the strip beside it.

    Raises:
        ConfigError: invalid settings, or they do not fit the network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: a foreign file is at the place of the picture.
    """
    options = render_options_of(config, config.trunc)
    seeds = parse_seeds(config.seeds)
    if len(seeds) < 2:
        raise ConfigError(f"seeds {config.seeds}: an interpolation needs two seeds or more")
    condition, edits = given_condition(class_index, config.label), edits_of(config)
    path = outdir / STRIP_NAME
    check_pictures(path)
    model = load_model(source, config.device)
    side = model.G.img_resolution
    factor = max(_LEAST_SIDE // side, 1)
    check_sheet_size((side + config.frames) * factor + _GAP, side * factor)
    options = with_edits(options, model, edits, config.directions)
    frames = interpolated(model, seeds, options, model.usable(condition), config.frames)
    column = min(int(config.column * side), side - 1)
    first, strip = column_strip(tracked(frames, "rendering strip", config.frames), column)
    write_bytes(path, png_bytes(_sheet(first, strip, column, side * factor)))
    return path


def interpolated(
    model: Model, seeds: list[int], options: RenderOptions, condition: Condition, frames: int
) -> Iterator[Image]:
    """Images along a smooth path in w from the first seed to the last, [H, W, C].

    All seeds have the class of the first: texture must not change with the class.
    """
    one = model.conditions(seeds[:1], condition)[0]
    with model.named():
        ws = [seed_ws(model.G, seed, options, one).cpu().numpy() for seed in seeds]
    curve = PathCurve(np.concatenate(ws), frames, is_closed=False)
    for i in range(frames):
        yield model.w_picture(np.asarray(curve.at(i), np.float32), options, seed=i)


def column_strip(frames: Iterator[Image], column: int) -> tuple[Image, Image]:
    """The first frame [H, W, C], and column ``column`` of each frame from left to right, [H, N, C].

    There is at least one frame.
    """
    first = next(frames)
    columns = [first[:, column], *(frame[:, column] for frame in frames)]
    return first, np.stack(columns, axis=1)


def _sheet(first: Image, strip: Image, column: int, side: int) -> Image:
    """The marked first image beside the strip, enlarged, [side, W, 3]."""
    marked = np.repeat(first, 3, axis=2) if first.shape[2] == 1 else first.copy()
    strip = np.repeat(strip, 3, axis=2) if strip.shape[2] == 1 else strip
    factor = side // first.shape[0]
    marked, large = (
        np.kron(each, np.ones((factor, factor, 1), np.uint8)) for each in (marked, strip)
    )
    middle = column * factor + factor // 2
    marked[:, middle : middle + max(side // 256, 1)] = _LINE
    gap = np.full((side, _GAP, 3), 255, np.uint8)
    sheet: Image = np.concatenate([marked, gap, large], axis=1)
    return sheet
