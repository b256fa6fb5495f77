"""The files of ``sg3flow directions``: ``directions.npz``, and a strip of images per direction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sg3flow.checkpoints.loading import DIRECTIONS_NAME
from sg3flow.config import DirectionsConfig
from sg3flow.errors import ConfigError, cut
from sg3flow.files import write_bytes
from sg3flow.latent.directions import find_directions
from sg3flow.output_checks import check_replaceable, png_marked
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, given_condition
from sg3flow.rendering.edits import (
    MAX_STRENGTH,
    Directions,
    is_directions_file,
    resolve_edits,
    write_directions,
)
from sg3flow.rendering.grid import table_sheet
from sg3flow.rendering.images import SOFTWARE, Image, Model, captions, load_model, png_bytes
from sg3flow.rendering.mixing import layers_text, parse_layers
from sg3flow.rendering.outputs import numbers_of
from sg3flow.rendering.seeds import RenderOptions, parse_seeds

_MOST_STEP = 100.0


@dataclass(frozen=True)
class Places:
    """Where the directions go, and the strip of each; no strips with ``--output``."""

    path: Path
    strips: tuple[Path, ...] = ()


def check_request(
    config: DirectionsConfig, outdir: Path | None, output: Path | None, class_index: int | None
) -> Places:
    """Check all that can be known without the network; returns what will be written.

    Raises:
        ConfigError: not exactly one of ``outdir`` and ``output`` is given, ``output`` is no .npz
            file or comes with settings of the strips, or a setting is invalid.
        DataError: something else is at a place to write to.
    """
    if (outdir is None) == (output is None):
        raise ConfigError(
            f"give the place of the directions: --outdir DIR for DIR/{DIRECTIONS_NAME} and strips "
            "of images, or --output FILE.npz"
        )
    if output is not None and output.suffix.lower() != ".npz":
        raise ConfigError(f"--output must end in .npz, the form of the file, not '{output.name}'")
    if output is not None:
        _require_no_strips(config)
    parse_seeds(config.seeds)
    parse_steps(config.steps)
    given_condition(class_index, config.label)
    places = _places(config, outdir, output)
    option = "--output" if outdir is None else "--outdir"
    check_replaceable(places.path, is_directions_file, "a directions file", option)
    for strip in places.strips:
        check_replaceable(strip, png_marked(SOFTWARE), "a strip of images", option)
    return places


def _require_no_strips(config: DirectionsConfig) -> None:
    defaults = DirectionsConfig()
    given = [
        f"--{name}"
        for name in ("seeds", "steps", "trunc")
        if getattr(config, name) != getattr(defaults, name)
    ]
    if given:
        raise ConfigError(
            f"{' and '.join(given)}: of the strips of images, which --output does not write; leave "
            "it out, or give --outdir DIR"
        )


def _places(config: DirectionsConfig, outdir: Path | None, output: Path | None) -> Places:
    if outdir is None:
        assert output is not None
        return Places(output)
    strips = (outdir / f"{config.method}{k}.png" for k in range(config.num))
    return Places(outdir / DIRECTIONS_NAME, tuple(strips))


def write_directions_of(
    source: str, places: Places, config: DirectionsConfig, class_index: int | None = None
) -> Directions:
    """Find the directions of a network, and write them and their strips.

    Raises:
        ConfigError: a setting that does not fit the network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
    """
    model = load_model(source, config.device)
    condition = model.usable(given_condition(class_index, config.label))
    found = find_directions(
        model,
        config.method,
        parse_layers(config.layers, model.G.num_ws),
        config.num,
        condition=condition,
        num_samples=config.samples,
        seed=config.seed,
    )
    write_directions(places.path, found)
    seeds, steps = parse_seeds(config.seeds), parse_steps(config.steps)
    options = RenderOptions(psi=config.trunc)
    for k, strip in enumerate(places.strips):
        sheet = strip_sheet(model, found, k, seeds, steps, condition, options)
        write_bytes(strip, png_bytes(sheet))
    return found


def strip_sheet(
    model: Model,
    directions: Directions,
    index: int,
    seeds: Sequence[int],
    steps: Sequence[float],
    condition: Condition,
    options: RenderOptions,
) -> Image:
    """The strip of one direction: a row per seed, a column per strength.

    Args:
        steps: strengths in units of the direction's scale; the captions have them in units of w.

    Raises:
        ConfigError: the sheet would be too large.
    """
    name, scale = directions.names[index], float(directions.scales[index])
    strengths = [min(max(step * scale, -MAX_STRENGTH), MAX_STRENGTH) for step in steps]
    edits = [replace(options, edit=resolve_edits(directions, {name: s})) for s in strengths]
    conditions = model.conditions(seeds, condition)
    cells = [(*row, each) for row in zip(seeds, conditions, strict=True) for each in edits]
    images = (
        model.picture(seed, each, one)
        for seed, one, each in tracked(cells, f"rendering {name}", len(cells))
    )
    heads = [
        f"{step:+g} sd: {s:.4g}" if step else "0" for step, s in zip(steps, strengths, strict=True)
    ]
    return table_sheet(images, captions(model, seeds, condition), heads, model.G.img_resolution)


def parse_steps(text: str) -> list[float]:
    """Comma-separated strengths of a strip.

    Raises:
        ConfigError: not numbers from -100 to 100.
    """
    rule = f"steps must be numbers like -2,0,2, from {-_MOST_STEP:g} to {_MOST_STEP:g}"
    steps = numbers_of(text, rule)
    if not all(abs(step) <= _MOST_STEP for step in steps):
        raise ConfigError(f"{rule}, not '{cut(text)}'")
    return steps


def direction_table(directions: Directions) -> Iterator[str]:
    """Lines for people: name, value and natural step of each direction."""
    kind = "variance" if directions.method == "pca" else "eigenvalue"
    yield f"{directions.method} of layers {layers_text(directions.layers)}"
    yield f"{'name':<10}{kind:>12}{'step':>12}"
    for name, value, scale in zip(
        directions.names, directions.values, directions.scales, strict=True
    ):
        yield f"{name:<10}{value:>12.4g}{scale:>12.4g}"
