"""The render commands with own w, ``--projected-w FILE``, instead of seeds.

A w is drawn as it is, or moved by edits: it has its class in it, and truncation does not apply.
Options that would have no effect are refused.
"""

from collections.abc import Iterator
from pathlib import Path

from sg3flow.config import (
    RenderGridConfig,
    RenderImagesConfig,
    RenderMixConfig,
    RenderOptionsConfig,
    RenderPathConfig,
    RenderVideoConfig,
)
from sg3flow.errors import ConfigError
from sg3flow.files import write_bytes
from sg3flow.output_checks import check_replaceable
from sg3flow.progress import tracked
from sg3flow.rendering.edit_options import edits_of, with_edits
from sg3flow.rendering.edits import edited_w
from sg3flow.rendering.grid import seed_sheet
from sg3flow.rendering.images import Image, Model, load_model, png_bytes
from sg3flow.rendering.outputs import (
    GRID_NAME,
    VIDEO_NAME,
    check_pictures,
    is_our_video,
    parse_tiles,
    render_options_of,
)
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import keyframe_seeds, write_loop
from sg3flow.rendering.w_files import W, read_w

_Settings = (
    RenderImagesConfig | RenderGridConfig | RenderVideoConfig | RenderMixConfig | RenderPathConfig
)


def render_w_images(
    source: str,
    outdir: Path,
    config: RenderImagesConfig,
    projected_w: Path,
    class_index: int | None = None,
) -> list[Path]:
    """Write an image per w, ``proj00.png`` and so on as the public tools do, into ``outdir``.

    Raises:
        ConfigError: an option that has no effect on w, or w that do not fit the network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: the file of w cannot be read, or an output path is taken by a foreign file.
    """
    options = _options(config, class_index)
    model = load_model(source, config.device)
    ws = _edited_w(model, projected_w, config)
    paths = [outdir / f"proj{i:02d}.png" for i in range(len(ws))]
    check_pictures(*paths)
    for path, image in zip(paths, _images(model, ws, options, "rendering images"), strict=True):
        write_bytes(path, png_bytes(image))
    return paths


def render_w_grid(
    source: str,
    outdir: Path,
    config: RenderGridConfig,
    projected_w: Path,
    class_index: int | None = None,
) -> Path:
    """Write ``grid.png``: the images of w with their numbers; errors as ``render_w_images``."""
    options, path = _options(config, class_index), outdir / GRID_NAME
    check_pictures(path)
    model = load_model(source, config.device)
    ws = _edited_w(model, projected_w, config)
    images = _images(model, ws, options, "rendering grid")
    names = [f"w {i}" for i in range(len(ws))]
    write_bytes(path, png_bytes(seed_sheet(images, names, model.G.img_resolution, config.columns)))
    return path


def render_w_video(
    source: str,
    path: Path,
    config: RenderVideoConfig,
    projected_w: Path,
    class_index: int | None = None,
) -> Path:
    """Write a video: a loop through w; errors as ``render_w_images``, or the encoder fails."""
    options, grid = _options(config, class_index), parse_tiles(config.grid)
    option = "--outdir" if path.name == VIDEO_NAME else "--output"
    check_replaceable(path, is_our_video, "a render", option)
    model = load_model(source, config.device)
    ws = _edited_w(model, projected_w, config)
    count = config.num_keyframes * grid[0] * grid[1]
    order = keyframe_seeds(range(len(ws)), count, config.shuffle_seed)
    with model.named():
        write_loop(
            model.G,
            ws[order],
            path,
            options=options,
            grid=grid,
            frames_per_keyframe=config.w_frames,
            fps=config.fps,
        )
    return path


def _options(
    config: RenderImagesConfig | RenderGridConfig | RenderVideoConfig, class_index: int | None
) -> RenderOptions:
    """The render options of settings, without those that have no effect on w."""
    instead = "leave it or --projected-w out"
    if config.seeds:
        raise ConfigError(f"--seeds has no effect on w; {instead}")
    refuse_options_of_seeds(config, class_index, instead)
    edits_of(config)  # wrong ones are refused before the network is loaded
    return render_options_of(config)


def refuse_options_of_seeds(config: _Settings, class_index: int | None, instead: str) -> None:
    """Refuse options that decide the w of seeds, where all w are given.

    Args:
        instead: what to do, for the message.

    Raises:
        ConfigError: there is one.
    """
    given = {
        "--trunc": config.trunc != 1,
        "--truncation-cutoff": config.truncation_cutoff >= 0,
        "--class": class_index is not None,
        "--label": config.label != "",
    }
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"{option} has no effect on w; {instead}")


def _edited_w(model: Model, path: Path, config: RenderOptionsConfig) -> W:
    """The w of a file, moved by the edits."""
    options = with_edits(RenderOptions(), model, edits_of(config), config.directions)
    return edited_w(read_w(path, model.G), options.edit)


def _images(model: Model, ws: W, options: RenderOptions, description: str) -> Iterator[Image]:
    for i, w in tracked(enumerate(ws), description, len(ws)):
        yield model.w_picture(w, options, seed=i)
