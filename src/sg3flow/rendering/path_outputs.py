"""``render path``: a video along a path through keyframes."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sg3flow.config import RenderPathConfig
from sg3flow.errors import ConfigError, cut
from sg3flow.output_checks import check_replaceable
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, given_condition
from sg3flow.rendering.edits import Directions, read_directions
from sg3flow.rendering.envelopes import Envelope, read_envelope
from sg3flow.rendering.images import Model, load_model
from sg3flow.rendering.keyframes import Keyframe, read_keyframes
from sg3flow.rendering.outputs import is_our_video, render_options_of
from sg3flow.rendering.paths import check_edits, path_images, points_of
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import video_frame, write_mp4

PATH_NAME = "path.mp4"
MOST_FRAMES = 1_000_000
_W_FRAMES = 120  # of `render video`, too


def render_path(
    source: str,
    path: Path,
    config: RenderPathConfig,
    keyframes: Path,
    *,
    directions: Path | None = None,
    curves: Iterable[str] = (),
    class_index: int | None = None,
) -> int:
    """Write a video along a path; returns the number of frames.

    Args:
        keyframes: see ``read_keyframes``.
        directions: file of the directions of edits.
        curves: ``NAME=FILE`` each: the envelope that scales an edit.

    Raises:
        ConfigError: invalid settings or keyframes, or they do not fit the network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: a file cannot be read, ``path`` is taken by a foreign file, or encoding failed.
    """
    options = render_options_of(config, config.trunc)
    given = given_condition(class_index, config.label)
    option = "--outdir" if path.name == PATH_NAME else "--output"
    check_replaceable(path, is_our_video, "a render", option)
    rows = read_keyframes(keyframes)
    known = read_directions(directions) if directions is not None else None
    envelopes = {name: read_envelope(file) for name, file in parse_curves(curves).items()}
    model = load_model(source, config.device)
    return write_path(
        model,
        path,
        rows,
        options,
        model.usable(given),
        directions=known,
        envelopes=envelopes,
        is_closed=config.wrap,
        w_frames=config.w_frames,
        frames=config.frames,
        fps=config.fps,
    )


def write_path(
    model: Model,
    path: Path,
    keyframes: list[Keyframe],
    options: RenderOptions,
    condition: Condition,
    *,
    directions: Directions | None,
    envelopes: Mapping[str, Envelope],
    is_closed: bool,
    w_frames: int,
    frames: int,
    fps: int,
) -> int:
    """Write the video; arguments and errors as ``render_path``."""
    check_edits(keyframes, directions, list(envelopes))
    seconds = max((each.seconds for each in envelopes.values()), default=0.0)
    spans = len(keyframes) if is_closed else len(keyframes) - 1
    total = frames or frame_count(spans, is_closed, w_frames, seconds, fps)
    if total > MOST_FRAMES:
        raise ConfigError(f"the path would have {total} frames, at most {MOST_FRAMES}; use fewer")
    points = points_of(model, keyframes, options, condition)
    times = np.arange(total) / fps
    factors = {name: envelope.at(times) for name, envelope in envelopes.items()}
    images = path_images(
        model,
        points,
        options,
        total,
        is_closed=is_closed,
        directions=directions,
        factors=factors,
    )
    write_mp4(tracked(map(video_frame, images), "rendering path", total), path, fps)
    return total


def frame_count(spans: int, is_closed: bool, w_frames: int, seconds: float, fps: int) -> int:
    """The number of frames of a path that does not give it.

    Args:
        spans: from one keyframe to the next.
        w_frames: frames of each; 0: 120, or as long as the curves.
        seconds: of the longest curve; 0: there is none.
    """
    if seconds and not w_frames:
        return max(math.ceil(seconds * fps - 1e-6), 1)
    return spans * (w_frames or _W_FRAMES) + (0 if is_closed else 1)


def parse_curves(curves: Iterable[str]) -> dict[str, Path]:
    """``NAME=FILE`` of a command line by name.

    Raises:
        ConfigError: another form, or the same name twice.
    """
    found: dict[str, Path] = {}
    for text in curves:
        name, _, file = text.partition("=")
        if not name or not file:
            raise ConfigError(f"a curve must be NAME=FILE such as pca0=beat.wav, not '{cut(text)}'")
        if name in found:
            raise ConfigError(f"the edit {cut(name)} has two curves; give one")
        found[name] = Path(file)
    return found
