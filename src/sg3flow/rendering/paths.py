"""A path through keyframes: cubic splines through their w, movements and strengths of edits.

The w of each keyframe is computed with its own psi and class or label, and the path is a spline
through these w; labels are not interpolated. The spline is natural (second derivative 0 at both
ends), or periodic if the path is closed. Angles are plain numbers: from 350 to 10 it turns back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import CubicSpline

from sg3flow.errors import ConfigError, cut
from sg3flow.rendering.call_conditions import condition_of
from sg3flow.rendering.conditions import Condition
from sg3flow.rendering.edits import Directions, edited, resolve_edits
from sg3flow.rendering.images import Image, Model, placed_as, seed_ws
from sg3flow.rendering.keyframes import Keyframe, naming
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import closed_curve
from sg3flow.rendering.w_files import W, read_w

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Points:
    """The keyframes of a path as numbers.

    Attributes:
        ws: [K, num_ws, w_dim], without edits.
        motions: [K, 3]: x, y and angle.
        strengths: [K, E], of the edits ``names``.
    """

    ws: W
    motions: npt.NDArray[np.float64]
    strengths: npt.NDArray[np.float64]
    names: tuple[str, ...]


class PathCurve:
    """A curve through K values at 0, 1, … K - 1, and back to the first if it is closed.

    Frame i is at ``i * span / steps``. A frame at a keyframe has the value of the keyframe, bit for
    bit; a spline would round it.
    """

    def __init__(self, values: Numbers, frames: int, is_closed: bool) -> None:
        self.values = values
        self.span = len(values) if is_closed else len(values) - 1
        self.steps = frames if is_closed else max(frames - 1, 1)
        curve = closed_curve if is_closed else _open_curve
        self.spline = curve(values) if len(values) > 1 and values.size else lambda _: values[0]

    def at(self, frame: int) -> Numbers:
        """The value of a frame."""
        keyframe, rest = divmod(frame * self.span, self.steps)
        if rest == 0:
            value: Numbers = self.values[keyframe % len(self.values)]
        else:
            value = self.spline(keyframe + rest / self.steps)
        return value


def points_of(
    model: Model, keyframes: Sequence[Keyframe], options: RenderOptions, condition: Condition
) -> Points:
    """The numbers of keyframes.

    Args:
        options: psi, shift and angle of keyframes that do not give them.
        condition: class or label of keyframes without one; None: all classes, or labels of training
            images, in turn.

    Raises:
        ConfigError, DataError: a keyframe does not fit the network, or its file cannot be read.
    """
    conditions = model.conditions(range(len(keyframes)), condition)
    ws = [_w(model, each, options, one) for each, one in zip(keyframes, conditions, strict=True)]
    names = edit_names(keyframes)
    start = (*options.translate, options.rotate)
    motions = [
        [own if own is not None else default for own, default in zip(each, start, strict=True)]
        for each in ((k.x, k.y, k.angle) for k in keyframes)
    ]
    for each, (x, y, angle) in zip(keyframes, motions, strict=True):
        moved = replace(options, translate=(x, y), rotate=angle)
        with naming(each.where), placed_as(model.G, moved):
            pass  # a network that cannot move is refused before anything is drawn
    strengths = [[each.edits.get(name, 0.0) for name in names] for each in keyframes]
    shape = (len(keyframes), len(names))
    return Points(np.concatenate(ws), np.array(motions), np.array(strengths).reshape(shape), names)


def path_images(
    model: Model,
    points: Points,
    options: RenderOptions,
    frames: int,
    *,
    is_closed: bool,
    directions: Directions | None = None,
    factors: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Iterator[Image]:
    """The images of the frames, one by one.

    Frame by frame: the w of the path, float32; plus each edit's strength, times its factor, times
    its direction; drawn with the shift and angle of the path. Random noise has the frame's number
    as its seed.

    Args:
        factors: of the strength of edits by name, one per frame.

    Raises:
        CheckpointError: the network generates values that are not finite.
    """
    ws, motions, strengths = (
        PathCurve(values, frames, is_closed)
        for values in (points.ws, points.motions, points.strengths)
    )
    for i in range(frames):
        x, y, angle = map(float, motions.at(i))
        moved = replace(options, translate=(x, y), rotate=angle, edit=None)
        w = torch.from_numpy(np.array(ws.at(i)[None], np.float32))
        if directions is not None:
            scale = {name: values[i] for name, values in (factors or {}).items()}
            given = dict(zip(points.names, strengths.at(i), strict=True))
            edits = {name: float(value * scale.get(name, 1)) for name, value in given.items()}
            w = edited(w, resolve_edits(directions, edits))
        yield model.w_picture(w[0].numpy(), moved, seed=i)


def check_edits(
    keyframes: Sequence[Keyframe], directions: Directions, curves: Iterable[str]
) -> None:
    """Check the edits of keyframes, and that each curve scales one.

    Raises:
        ConfigError: an edit is unknown, there is none, or a curve scales an edit of no keyframe.
    """
    for each in keyframes:
        with naming(each.where):
            resolve_edits(directions, each.edits)
    used = edit_names(keyframes)
    if not used:
        raise ConfigError("no keyframe has an edit; leave the directions out, or add edit:NAME")
    for name in curves:
        if name not in used:
            raise ConfigError(f"no keyframe has the edit '{cut(name)}' that a curve should scale")


def edit_names(keyframes: Iterable[Keyframe]) -> tuple[str, ...]:
    """The names of the edits that keyframes have."""
    return tuple(dict.fromkeys(name for each in keyframes for name in each.edits))


def _open_curve(values: Numbers) -> Any:
    return CubicSpline(np.arange(len(values)), values.astype(np.float64), bc_type="natural")


def _w(model: Model, keyframe: Keyframe, options: RenderOptions, default: Condition) -> W:
    """The w of a keyframe, [1, num_ws, w_dim], without edits."""
    with naming(keyframe.where):
        if keyframe.w is not None:
            return _own_w(read_w(keyframe.w, model.G), keyframe)
        given = condition_of(model, keyframe.class_, keyframe.label)
        psi = options.psi if keyframe.psi is None else keyframe.psi
        drawn = replace(options, psi=psi, edit=None)
        assert keyframe.seed is not None
        with model.named():
            ws = seed_ws(model.G, keyframe.seed, drawn, default if given is None else given)
        w: W = ws.cpu().numpy()
        return w


def _own_w(ws: W, keyframe: Keyframe) -> W:
    index = keyframe.index
    if index is None and len(ws) > 1:
        raise ConfigError(f"{keyframe.w} has {len(ws)} w; give index, from 0 to {len(ws) - 1}")
    if index is not None and index >= len(ws):
        raise ConfigError(f"index must be from 0 to {len(ws) - 1}, the w of {keyframe.w}")
    chosen: W = ws[index or 0][None]
    return chosen
