"""The render commands: from the source of a network to image files in a folder."""

import logging
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from sg3flow.addresses import shown_url
from sg3flow.checkpoints import Networks, load_networks
from sg3flow.config import (
    RenderGridConfig,
    RenderImagesConfig,
    RenderOptionsConfig,
    RenderSweepConfig,
    RenderVideoConfig,
)
from sg3flow.device import pick_device
from sg3flow.errors import CheckpointError, ConfigError
from sg3flow.files import write_bytes
from sg3flow.output_checks import check_replaceable, png_marked
from sg3flow.params_file import parse_pair
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import (
    Condition,
    TrainingLabels,
    condition_text,
    described_labels,
    given_condition,
)
from sg3flow.rendering.grid import seed_sheet, table_sheet
from sg3flow.rendering.images import (
    SOFTWARE,
    Image,
    RenderedGenerator,
    RenderOptions,
    parse_seeds,
    png_bytes,
    render_image,
)
from sg3flow.rendering.video import keyframe_seeds, write_interpolation

GRID_NAME, SWEEP_NAME, VIDEO_NAME = "grid.png", "truncation.png", "interpolation.mp4"

_log = logging.getLogger(__name__)
_MAX_TILES = 256
_MAX_SHIFT = 1000  # image widths


@dataclass(frozen=True)
class Model:
    """A generator with its source, the labels it was trained with, and the names of its classes."""

    G: RenderedGenerator
    source: str
    labels: TrainingLabels
    class_names: Sequence[str] = ()

    def picture(self, seed: int, options: RenderOptions, condition: Condition) -> Image:
        """The image of a seed; errors as in ``render_image``, with the name of the network."""
        with self.named():
            return render_image(self.G, seed, options, condition)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Add the name of the network to errors inside the block."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{self.source}: {error}") from None

    def usable(self, condition: Condition) -> Condition:
        """The condition if the network knows it; an unconditional one ignores it with a warning.

        Raises:
            ConfigError: the condition does not fit the labels that the network was trained with.
        """
        if condition is None:
            return None
        if self.labels.dim == 0:
            option = "--class" if isinstance(condition, int) else "--label"
            _log.warning("warning: %s is ignored: %s is unconditional", option, self.source)
            return None
        self.labels.check(condition)
        return condition

    def conditions(self, seeds: Sequence[int], condition: Condition) -> list[Condition]:
        """The condition of each seed: the given one, or all classes or training labels in turn."""
        if condition is not None:
            return [condition] * len(seeds)
        return self.labels.in_turn(len(seeds))

    def caption(self, seed: int, condition: Condition) -> str:
        """The caption of an image: its seed, and its class or label if it has one."""
        text = condition_text(condition, self.class_names)
        return f"seed {seed}, {text}" if text else f"seed {seed}"


def load_model(source: str, device: str) -> Model:
    """The generator of a path, a URL, ``models:/…`` or ``runs:/…``, on a device.

    Raises:
        CheckpointError: the source cannot be read, or has no generator.
        ConfigError: there is no such device.
    """
    place = pick_device(device)
    networks = load_networks(source)
    # A snapshot of an earlier version may be in the folder of its run.
    described = described_labels(networks.training_set or {}, Path(source).parent)
    return as_model(networks, shown_url(source), place, described)


def as_model(
    networks: Networks,
    source: str,
    device: torch.device,
    training_set: Mapping[str, Any] | None = None,
) -> Model:
    """The generator of loaded networks: G_ema, or G if there is no G_ema.

    Args:
        training_set: the description of the training set; None: that of the networks.

    Raises:
        CheckpointError: there is no generator, or the description does not fit it.
    """
    network = networks.G_ema or networks.G
    if network is None:
        raise CheckpointError(f"{source} has no generator")
    network.requires_grad_(False).to(device)
    described = training_set or networks.training_set or {}
    names = [str(name) for name in described.get("class_names") or ()]
    G = cast(RenderedGenerator, network)
    try:
        return Model(G, source, TrainingLabels.read(G.c_dim, described), names)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None


def render_images(
    source: str, outdir: Path, config: RenderImagesConfig, class_index: int | None = None
) -> list[Path]:
    """Write ``seed0002.png`` and so on into ``outdir``; other files there are not changed.

    Raises:
        ConfigError: invalid settings, or no class or label for a conditional network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: an output path is taken by a foreign file.
    """
    seeds = list(dict.fromkeys(parse_seeds(config.seeds)))
    options = render_options_of(config, config.trunc)
    given = given_condition(class_index, config.label)
    paths = [outdir / seed_name(seed) for seed in seeds]
    _check_replaceable(*paths)
    model = load_model(source, config.device)
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
        parse_seeds(config.seeds),
        render_options_of(config, config.trunc),
        outdir / GRID_NAME,
    )
    given = given_condition(class_index, config.label)
    _check_replaceable(path)
    model = load_model(source, config.device)
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
    given = given_condition(class_index, config.label)
    _check_replaceable(path)
    model = load_model(source, config.device)
    write_sweep(model, path, seeds, model.usable(given), options, truncs)
    return path


def video_path(outdir: Path | None, output: Path | None) -> Path:
    """The file of a video: ``output``, or ``interpolation.mp4`` in ``outdir``.

    Raises:
        ConfigError: not exactly one of the two is given, or ``output`` is no .mp4.
    """
    if (outdir is None) == (output is None):
        raise ConfigError(
            f"give the place of the video: --output FILE.mp4, or --outdir DIR for DIR/{VIDEO_NAME}"
        )
    if output is not None and output.suffix.lower() != ".mp4":
        raise ConfigError(f"--output must end in .mp4, the form of the video, not '{output.name}'")
    return output if output is not None else cast(Path, outdir) / VIDEO_NAME


def render_video(
    source: str, path: Path, config: RenderVideoConfig, class_index: int | None = None
) -> Path:
    """Write a video: a loop through the seeds.

    Raises:
        ConfigError, DataError: as ``render_images``; DataError also if the encoder fails.
    """
    grid = parse_tiles(config.grid)
    count = config.num_keyframes * grid[0] * grid[1]
    seeds = keyframe_seeds(parse_seeds(config.seeds), count, config.shuffle_seed)
    options = render_options_of(config, config.trunc)
    given = given_condition(class_index, config.label)
    option = "--outdir" if path.name == VIDEO_NAME else "--output"
    check_replaceable(path, _is_our_video, "a render", option)
    model = load_model(source, config.device)
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


def pictures(
    model: Model,
    seeds: Sequence[int],
    condition: Condition,
    options: RenderOptions,
    description: str,
) -> Iterator[Image]:
    """The images of seeds, rendered one by one on demand, with a progress bar."""
    pairs = zip(seeds, model.conditions(seeds, condition), strict=True)
    for seed, one in tracked(pairs, description, len(seeds)):
        yield model.picture(seed, options, one)


def captions(model: Model, seeds: Sequence[int], condition: Condition) -> list[str]:
    """The captions of the images of seeds."""
    pairs = zip(seeds, model.conditions(seeds, condition), strict=True)
    return [model.caption(seed, one) for seed, one in pairs]


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
    shift = _numbers(config.translate, "translate must be two numbers like 0.1,-0.2")
    if len(shift) != 2 or not all(-_MAX_SHIFT <= part <= _MAX_SHIFT for part in shift):
        raise ConfigError(
            f"translate must be two numbers like 0.1,-0.2, from {-_MAX_SHIFT} to {_MAX_SHIFT}, not "
            f"'{config.translate[:60]}'"
        )
    return RenderOptions(psi, config.noise_mode, (shift[0], shift[1]), config.rotate)


def parse_truncs(text: str) -> list[float]:
    """Comma-separated values of truncation psi.

    Raises:
        ConfigError: not numbers, or outside -2 to 2.
    """
    truncs = _numbers(text, "truncs must be numbers like 0,0.5,1")
    if not all(-2 <= psi <= 2 for psi in truncs):
        raise ConfigError(f"truncs must be numbers from -2 to 2, not '{text[:60]}'")
    return truncs


def parse_tiles(text: str) -> tuple[int, int]:
    """``3x2`` as numbers of tiles across and down.

    Raises:
        ConfigError: another form, or not 1 to 256 tiles.
    """
    across, down = parse_pair(text, "grid (tiles across x down)")
    if not 1 <= across * down <= _MAX_TILES:
        raise ConfigError(f"grid must have 1 to {_MAX_TILES} tiles, not {text[:60]}")
    return across, down


def seed_name(seed: int) -> str:
    """The file name of the image of a seed."""
    return f"seed{seed:04d}.png"


def _check_replaceable(*paths: Path) -> None:
    """Check that only pictures are replaced that carry our mark."""
    for path in paths:
        check_replaceable(path, png_marked(SOFTWARE), "a render", "--outdir")


def _is_our_video(path: Path) -> bool:
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


def _numbers(text: str, rule: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{rule}, not '{text[:60]}'") from None
