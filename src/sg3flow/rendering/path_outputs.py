"""``render path``: a video along a path through keyframes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sg3flow.config import RenderPathConfig
from sg3flow.errors import ConfigError, cut
from sg3flow.output_checks import check_replaceable
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, given_condition
from sg3flow.rendering.edit_options import Given, directions_of
from sg3flow.rendering.edits import parse_edits, read_directions
from sg3flow.rendering.envelopes import Envelope, read_envelope
from sg3flow.rendering.images import Model, load_model
from sg3flow.rendering.keyframes import Keyframe, read_keyframes
from sg3flow.rendering.outputs import is_our_video, render_options_of
from sg3flow.rendering.paths import check_edits, edit_names, path_images, points_of
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import video_frame, write_mp4
from sg3flow.rendering.w_outputs import refuse_options_of_seeds

PATH_NAME = "path.mp4"
MOST_FRAMES = 1_000_000
W_FRAMES = 120  # of `render video`, too
_ROUNDING = 1e-6


def render_path(
    source: str,
    path: Path,
    config: RenderPathConfig,
    keyframes: Path,
    *,
    curves: Iterable[str] = (),
    class_index: int | None = None,
) -> int:
    """Write a video along a path; returns the number of frames.

    Args:
        keyframes: see ``read_keyframes``.
        curves: ``NAME=FILE`` each: the envelope that scales an edit.

    Raises:
        ConfigError: invalid settings or keyframes, or they do not fit the network.
        CheckpointError: the network cannot be read, or generates values that are not finite.
        DataError: a file cannot be read, ``path`` is taken by a foreign file, or encoding failed.
    """
    options = render_options_of(config, config.trunc)
    given, edits = given_condition(class_index, config.label), parse_edits(config.edit)
    option = "--outdir" if path.name == PATH_NAME else "--output"
    check_replaceable(path, is_our_video, "a render", option)
    rows = [replace(row, edits=edits | row.edits) for row in read_keyframes(keyframes)]
    if all(row.w is not None for row in rows):
        refuse_options_of_seeds(config, class_index, "give a keyframe with a seed, or leave it out")
    envelopes = {name: read_envelope(file) for name, file in parse_curves(curves).items()}
    known = None
    if config.directions:
        known = read_directions(Path(config.directions))
        check_edits(rows, known, envelopes)  # before the network is loaded
    timing = Timing(config.wrap, config.w_frames, config.frames, config.fps)
    model = load_model(source, config.device)
    condition = model.usable(given)
    return write_path(model, path, rows, options, condition, timing, known, envelopes)


@dataclass(frozen=True)
class Timing:
    """The frames of a path.

    Attributes:
        is_closed: whether it goes back to the first keyframe.
        w_frames: from one keyframe to the next; 0: 120, or as many as the curves are long.
        frames: all of them, instead; 0: not given.
        fps: per second.

    Raises:
        ConfigError: both numbers of frames are given.
    """

    is_closed: bool = False
    w_frames: int = 0
    frames: int = 0
    fps: int = 60

    def __post_init__(self) -> None:
        if self.w_frames and self.frames:
            raise ConfigError(
                f"give w_frames or frames, not both: {self.w_frames} frames from one keyframe to "
                f"the next, or {self.frames} in all"
            )

    def total(self, keyframes: int, seconds: float) -> int:
        """The number of frames of a path, with curves of so many seconds; 0: without curves.

        Raises:
            ConfigError: it is more than a million.
        """
        spans = keyframes if self.is_closed else keyframes - 1
        found = self.frames or spans * (self.w_frames or W_FRAMES) + (not self.is_closed)
        if seconds and not self.w_frames and not self.frames:
            found = max(math.ceil(seconds * self.fps - _ROUNDING), 1)
        if found > MOST_FRAMES:
            raise ConfigError(f"the path has {found} frames, at most {MOST_FRAMES}; use fewer")
        return found


def write_path(
    model: Model,
    path: Path,
    keyframes: Sequence[Keyframe],
    options: RenderOptions,
    condition: Condition,
    timing: Timing,
    directions: Given = None,
    envelopes: Mapping[str, Envelope] | None = None,
) -> int:
    """Write the video; arguments and errors as ``render_path``."""
    envelopes, known = envelopes or {}, None
    if directions is not None or envelopes or edit_names(keyframes):
        known = directions_of(model, directions)
        check_edits(keyframes, known, envelopes)
    seconds = max((each.seconds for each in envelopes.values()), default=0.0)
    total = timing.total(len(keyframes), seconds)
    points = points_of(model, keyframes, options, condition)
    times = np.arange(total) / timing.fps
    factors = {name: envelope.at(times) for name, envelope in envelopes.items()}
    images = path_images(
        model,
        points,
        options,
        total,
        is_closed=timing.is_closed,
        directions=known,
        factors=factors,
    )
    write_mp4(tracked(map(video_frame, images), "rendering path", total), path, timing.fps)
    return total


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
