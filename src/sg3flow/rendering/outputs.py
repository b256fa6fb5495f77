"""The render stage and commands: from a network to image files in a folder.

The stage renders images, sheets and a video of the best snapshot of a run.
"""

import mmap
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sg3flow.checkpoints import load_networks
from sg3flow.config import (
    RenderConfig,
    RenderGridConfig,
    RenderImagesConfig,
    RenderOptionsConfig,
    RenderSweepConfig,
    RenderVideoConfig,
)
from sg3flow.device import open_device
from sg3flow.errors import ConfigError
from sg3flow.files import atomic_folder, write_bytes, write_json
from sg3flow.output_checks import check_replaceable, folder_marked, png_marked
from sg3flow.params_file import parse_pair
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import (
    Condition,
    described_labels,
    given_condition,
)
from sg3flow.rendering.edit_options import edits_of, with_edits
from sg3flow.rendering.grid import seed_sheet, table_sheet
from sg3flow.rendering.images import (
    SOFTWARE,
    Image,
    Model,
    as_model,
    captions,
    load_model,
    pictures,
    png_bytes,
)
from sg3flow.rendering.seeds import RenderOptions, parse_seeds
from sg3flow.rendering.video import keyframe_seeds, write_interpolation
from sg3flow.runs.best_snapshot import BestSnapshot, best_of_run

FORMAT = "sg3flow-renders-1"
MARKER_NAME = "renders.json"
GRID_NAME, SWEEP_NAME, VIDEO_NAME = "grid.png", "truncation.png", "interpolation.mp4"
GRID_SEEDS, VIDEO_SEEDS = "0-23", "0-3"  # without --seeds

_MAX_TILES = 256
MAX_SHIFT = 1000  # image widths


def render_images(
    source: str, outdir: Path, config: RenderImagesConfig, class_index: int | None = None
) -> list[Path]:
    """Write ``seed0002.png`` and so on into ``outdir``; other files there are not changed.

    Raises:
        ConfigError: invalid settings, or no class or label for a conditional network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: an output path is taken by a foreign file.
    """
    if not config.seeds:
        raise ConfigError("seeds is required; use --seeds 0-9, or --projected-w FILE for own w")
    seeds = list(dict.fromkeys(parse_seeds(config.seeds)))
    options, edits = render_options_of(config, config.trunc), edits_of(config)
    given = given_condition(class_index, config.label)
    paths = [outdir / seed_name(seed) for seed in seeds]
    check_pictures(*paths)
    model = load_model(source, config.device)
    options = with_edits(options, model, edits, config.directions)
    condition = model.usable(given)
    model.labels.check(condition)
    for seed, path in tracked(zip(seeds, paths, strict=True), "rendering images", len(seeds)):
        write_bytes(path, png_bytes(model.picture(seed, options, condition)))
    return paths


def render_grid(
    source: str, outdir: Path, config: RenderGridConfig, class_index: int | None = None
) -> Path:
    """Write ``grid.png``: the images of seeds with captions.

    Raises:
        ConfigError, DataError: as ``render_images``.
    """
    seeds, options, path = (
        parse_seeds(config.seeds or GRID_SEEDS),
        render_options_of(config, config.trunc),
        outdir / GRID_NAME,
    )
    given, edits = given_condition(class_index, config.label), edits_of(config)
    check_pictures(path)
    model = load_model(source, config.device)
    options = with_edits(options, model, edits, config.directions)
    condition = model.usable(given)
    images = pictures(model, seeds, condition, options, "rendering grid")
    names = captions(model, seeds, condition)
    sheet = seed_sheet(images, names, model.G.img_resolution, config.columns)
    write_bytes(path, png_bytes(sheet))
    return path


def render_sweep(
    source: str, outdir: Path, config: RenderSweepConfig, class_index: int | None = None
) -> Path:
    """Write ``truncation.png``: one row per seed, one column per truncation psi.

    Raises:
        ConfigError, DataError: as ``render_images``.
    """
    seeds, truncs = parse_seeds(config.seeds), parse_truncs(config.truncs)
    options, path = render_options_of(config), outdir / SWEEP_NAME
    given, edits = given_condition(class_index, config.label), edits_of(config)
    check_pictures(path)
    model = load_model(source, config.device)
    options = with_edits(options, model, edits, config.directions)
    write_sweep(model, path, seeds, model.usable(given), options, truncs)
    return path


def video_path(outdir: Path | None, output: Path | None, name: str = VIDEO_NAME) -> Path:
    """The file of a video: ``output``, or ``name`` in ``outdir``.

    Raises:
        ConfigError: not exactly one of the two is given, or ``output`` is no .mp4.
    """
    if (outdir is None) == (output is None):
        raise ConfigError(
            f"give the place of the video: --output FILE.mp4, or --outdir DIR for DIR/{name}"
        )
    if output is not None and output.suffix.lower() != ".mp4":
        raise ConfigError(f"--output must end in .mp4, the form of the video, not '{output.name}'")
    return output if output is not None else cast(Path, outdir) / name


def render_video(
    source: str, path: Path, config: RenderVideoConfig, class_index: int | None = None
) -> Path:
    """Write a video: a loop through the seeds.

    Raises:
        ConfigError, DataError: as ``render_images``; DataError also if the encoder fails.
    """
    grid = parse_tiles(config.grid)
    count = config.num_keyframes * grid[0] * grid[1]
    seeds = keyframe_seeds(parse_seeds(config.seeds or VIDEO_SEEDS), count, config.shuffle_seed)
    options, edits = render_options_of(config, config.trunc), edits_of(config)
    given = given_condition(class_index, config.label)
    option = "--outdir" if path.name == VIDEO_NAME else "--output"
    check_replaceable(path, is_our_video, "a render", option)
    model = load_model(source, config.device)
    options = with_edits(options, model, edits, config.directions)
    condition = model.usable(given)
    with model.named():
        write_interpolation(
            model.G,
            seeds,
            path,
            options=options,
            classes=model.conditions(seeds, condition),
            grid=grid,
            frames_per_keyframe=config.w_frames,
            fps=config.fps,
        )
    return path


def write_sweep(
    model: Model,
    path: Path,
    seeds: Sequence[int],
    condition: Condition,
    options: RenderOptions,
    truncs: Sequence[float],
) -> None:
    """Write the sheet of seeds by truncation psi."""
    conditions = model.conditions(seeds, condition)
    cells = [(s, c, psi) for s, c in zip(seeds, conditions, strict=True) for psi in truncs]
    images = (
        model.picture(seed, replace(options, psi=psi), one)
        for seed, one, psi in tracked(cells, "rendering sweep", len(cells))
    )
    names, heads = captions(model, seeds, condition), [f"psi {psi:g}" for psi in truncs]
    write_bytes(path, png_bytes(table_sheet(images, names, heads, model.G.img_resolution)))


def render_options_of(config: RenderOptionsConfig, psi: float = 1.0) -> RenderOptions:
    """The render options of settings.

    Raises:
        ConfigError: ``translate`` is not two numbers, or they are out of range.
    """
    shift = numbers_of(config.translate, "translate must be two numbers like 0.1,-0.2")
    if len(shift) != 2 or not all(-MAX_SHIFT <= part <= MAX_SHIFT for part in shift):
        raise ConfigError(
            f"translate must be two numbers like 0.1,-0.2, from {-MAX_SHIFT} to {MAX_SHIFT}, not "
            f"'{config.translate[:60]}'"
        )
    cutoff = None if config.truncation_cutoff < 0 else config.truncation_cutoff
    return RenderOptions(psi, config.noise_mode, (shift[0], shift[1]), config.rotate, cutoff)


def parse_truncs(text: str) -> list[float]:
    """Comma-separated values of truncation psi.

    Raises:
        ConfigError: not numbers, or outside -2 to 2.
    """
    truncs = numbers_of(text, "truncs must be numbers like 0,0.5,1")
    if not all(-2 <= psi <= 2 for psi in truncs):
        raise ConfigError(f"truncs must be numbers from -2 to 2, not '{text[:60]}'")
    return truncs


def parse_tiles(text: str) -> tuple[int, int]:
    """``3x2`` as numbers of tiles across and down.

    Raises:
        ConfigError: another form, or not 1 to 256 tiles.
    """
    return check_tiles(*parse_pair(text, "grid (tiles across x down)"))


def check_tiles(across: int, down: int) -> tuple[int, int]:
    """The numbers of tiles, if they can be drawn.

    Raises:
        ConfigError: not 1 to 256 tiles.
    """
    if not 1 <= across * down <= _MAX_TILES:
        raise ConfigError(f"grid must have 1 to {_MAX_TILES} tiles, not {across}x{down}")
    return across, down


def seed_name(seed: int) -> str:
    """The file name of the image of a seed."""
    return f"seed{seed:04d}.png"


def check_pictures(*paths: Path) -> None:
    """Check that only pictures are replaced that carry our mark."""
    for path in paths:
        check_replaceable(path, png_marked(SOFTWARE), "a render", "--outdir")


def is_our_video(path: Path) -> bool:
    """Whether it is an MP4 whose comment is ``SOFTWARE``, as the encoder writes it."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    text = SOFTWARE.encode()
    # The item "comment": its length and type, UTF-8 (1), no language (0), then the text.
    comment = b"\xa9cmt" + struct.pack(">I4sII", 16 + len(text), b"data", 1, 0) + text
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content[4:8] == b"ftyp" and content.find(comment) >= 0


def numbers_of(text: str, rule: str) -> list[float]:
    """Comma-separated numbers.

    Raises:
        ConfigError: not numbers; the message is ``rule`` and the text.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{rule}, not '{text[:60]}'") from None


def render_best(run_dir: Path, metrics: Path, outdir: Path, config: RenderConfig) -> dict[str, Any]:
    """Fill ``outdir`` from the best snapshot: seeds, grid, truncation sweep, interpolation, marker.

    The folder is replaced as a whole, and only if it is empty or one of ours.

    Returns:
        The content of ``renders.json``.

    Raises:
        ConfigError: invalid settings.
        MetricError, CheckpointError: the report or the snapshot is missing or damaged, or the
            report is about another snapshot of that name.
        DataError: ``outdir`` has foreign files, or the video encoder failed.
    """
    plan = _plan(config)
    check_replaceable(outdir, folder_marked(MARKER_NAME, FORMAT), "a renders folder", "--outdir")
    best, path, digest = best_of_run(run_dir, metrics)
    networks = load_networks(path)
    described = described_labels(networks.training_set or {}, run_dir)
    model = as_model(networks, str(path), open_device(config.device), described)
    with atomic_folder(outdir) as work:
        frames = _render_all(model, work, config, plan)
        marker = _marker(best, digest, config, plan, frames)
        write_json(work / MARKER_NAME, marker)
    return marker


def _plan(config: RenderConfig) -> dict[str, Any]:
    """Parse the settings that are lists, before any work starts."""
    return {
        "condition": given_condition(
            None if config.class_index < 0 else config.class_index, config.label
        ),
        "seeds": list(dict.fromkeys(parse_seeds(config.seeds))),
        "sweep_seeds": parse_seeds(config.sweep_seeds),
        "sweep_truncs": parse_truncs(config.sweep_truncs),
        "video_seeds": parse_seeds(config.video_seeds),
        "video_grid": parse_tiles(config.video_grid),
    }


def _render_all(model: Model, folder: Path, config: RenderConfig, plan: dict[str, Any]) -> int:
    seeds, options = plan["seeds"], RenderOptions(psi=config.trunc)
    condition = model.usable(plan["condition"])
    images = _written(folder, seeds, pictures(model, seeds, condition, options, "rendering images"))
    sheet = seed_sheet(images, captions(model, seeds, condition), model.G.img_resolution)
    write_bytes(folder / GRID_NAME, png_bytes(sheet))
    write_sweep(
        model, folder / SWEEP_NAME, plan["sweep_seeds"], condition, options, plan["sweep_truncs"]
    )
    with model.named():
        return write_interpolation(
            model.G,
            plan["video_seeds"],
            folder / VIDEO_NAME,
            options=options,
            classes=model.conditions(plan["video_seeds"], condition),
            grid=plan["video_grid"],
            frames_per_keyframe=config.video_frames,
            fps=config.video_fps,
        )


def _written(folder: Path, seeds: Sequence[int], images: Iterable[Image]) -> Iterator[Image]:
    """Write each image to its file and yield it, so that none is kept or rendered twice."""
    for seed, image in zip(seeds, images, strict=True):
        write_bytes(folder / seed_name(seed), png_bytes(image))
        yield image


def _marker(
    best: BestSnapshot, digest: str, config: RenderConfig, plan: dict[str, Any], frames: int
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "snapshot": best.snapshot,
        "snapshot_sha256": digest,
        "kimg": best.kimg,
        "metric": best.metric,
        "value": best.value,
        "trunc": config.trunc,
        "class_index": config.class_index,
        **({"label": config.label} if config.label else {}),
        **{name: value for name, value in plan.items() if name != "condition"},
        "video_frames": frames,
        "video_fps": config.video_fps,
    }
