"""The Python API of w: images of own w, style mixing, and paths through keyframes."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as PillowImage

from sg3flow.errors import ConfigError, cut, described
from sg3flow.rendering.call_arguments import (
    disk_errors,
    number_of,
    one_w_of,
    options_of,
    refuse,
    seed_of,
    seeds_of,
    video_path_of,
    whole_number,
    ws_of,
)
from sg3flow.rendering.call_conditions import condition_of, one_condition
from sg3flow.rendering.edit_options import Given, with_edits
from sg3flow.rendering.edits import MAX_STRENGTH, edited_w
from sg3flow.rendering.envelopes import read_envelope
from sg3flow.rendering.images import Image, Model, seed_ws
from sg3flow.rendering.keyframes import Keyframe, keyframes_of, read_keyframes
from sg3flow.rendering.mix_outputs import mixed_images, sides_of
from sg3flow.rendering.mixing import parse_layers
from sg3flow.rendering.path_outputs import MOST_FRAMES, Timing, write_path
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.w_files import W

Keyframes = str | os.PathLike[str] | Sequence[Mapping[str, object]]
Rows = Iterable[int] | npt.NDArray[np.floating] | torch.Tensor


class LatentDrawing:
    """What a loaded generator draws from w; ``LoadedGenerator`` describes common arguments."""

    def __init__(self, model: Model, source: str) -> None:
        self._model = model
        self.network = model.G
        self.source = source
        self.training_labels = model.labels

    @property
    def num_ws(self) -> int:
        """Number of w vectors of an image, one per layer."""
        return self.network.num_ws

    @property
    def w_dim(self) -> int:
        """Length of a w vector."""
        return self.network.w_dim

    def w(
        self,
        seed: int = 0,
        *,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> W:
        """The w of a seed, NumPy float32 [num_ws, w_dim], for ``from_w`` and own arithmetic.

        NumPy, because it is the form of ``projected_w.npz`` and needs no device.
        """
        number, options = seed_of(seed), options_of(psi, truncation_cutoff=truncation_cutoff)
        options = with_edits(options, self._model, edits, directions)
        condition = one_condition(self._model, class_, label)
        ws: W = seed_ws(self.network, number, options, condition)[0].cpu().numpy()
        return ws

    def from_w(
        self,
        w: npt.ArrayLike | torch.Tensor,
        *,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        seed: int = 0,
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> PillowImage.Image:
        """The image of a w; ``from_w(w(seed))`` is ``image(seed)``.

        Args:
            w: an array or a tensor: [num_ws, w_dim], one vector per layer; [w_dim], the same for
                all layers; or [1, num_ws, w_dim] or [1, 1, w_dim], as in ``projected_w.npz``.
            seed: of the noise, with ``noise_mode="random"`` only.
        """
        options, number = options_of(1.0, translate, rotate, noise_mode), seed_of(seed)
        options = with_edits(options, self._model, edits, directions)
        moved = edited_w(one_w_of(w, self)[None], options.edit)[0]
        return pillow_image(self._model.w_picture(moved, options, number))

    def mix(
        self,
        rows: Rows,
        columns: Rows,
        layers: str | Iterable[int] = "0-6",
        *,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> list[list[PillowImage.Image]]:
        """Images of rows with the styles of columns, as ``render mix`` draws them.

        Args:
            rows: seeds, or w [K, num_ws, w_dim]: the base.
            columns: seeds or w that give the styles.
            layers: those that come from the columns, as numbers or as text: ``"4-7,9"``, ``all``.

        Returns:
            A list per row with an image per column.
        """
        base, styles = _rows(rows, self), _rows(columns, self)
        options = options_of(psi, translate, rotate, noise_mode, truncation_cutoff)
        if isinstance(base, np.ndarray) and isinstance(styles, np.ndarray):
            _refuse_of_seeds(options, class_, label)
        chosen = _layers(layers, self.num_ws)
        options = with_edits(options, self._model, edits, directions)
        condition = condition_of(self._model, class_, label)
        sides = sides_of(self._model, base, styles, options, condition)
        images = list(map(pillow_image, mixed_images(self._model, *sides, chosen, options)))
        count = len(styles)
        return [images[i * count : (i + 1) * count] for i in range(len(base))]

    def path(
        self,
        path: str | os.PathLike[str],
        keyframes: Keyframes,
        *,
        wrap: bool = False,
        w_frames: int = 0,
        frames: int = 0,
        fps: int = 60,
        curves: Mapping[str, str | os.PathLike[str]] | None = None,
        psi: float = 1.0,
        truncation_cutoff: int | None = None,
        class_: int | str | None = None,
        label: Sequence[float] | None = None,
        translate: tuple[float, float] = (0.0, 0.0),
        rotate: float = 0.0,
        noise_mode: str = "const",
        edits: Mapping[str, float] | None = None,
        directions: Given = None,
    ) -> Path:
        """Write an MP4, a smooth path through keyframes, as ``render path`` does.

        Args:
            path: the file, which ends in .mp4; an earlier video of sg3flow there is replaced.
            keyframes: a .csv or .json file, or a list such as ``[{"seed": 1, "angle": 9}]`` with
                the names of such a file; what one does not give are the arguments below.
            wrap: after the last keyframe, back to the first.
            w_frames: frames from one keyframe to the next; 0: 120, or as long as the curves.
            frames: number of all frames, instead.
            fps: frames per second.
            curves: audio or .csv files by the name of the edit that they scale.

        Raises:
            DataError: a file cannot be read, or ``path`` is taken by another file or not writable.
        """
        file, options = (
            video_path_of(path),
            options_of(psi, translate, rotate, noise_mode, truncation_cutoff),
        )
        given = _keyframes(keyframes)
        if all(each.w is not None for each in given):
            _refuse_of_seeds(options, class_, label)
        if edits:
            given = [replace(each, edits=_edits(edits) | each.edits) for each in given]
        envelopes = {name: read_envelope(each) for name, each in _curves(curves).items()}
        if not isinstance(wrap, bool):
            refuse("wrap", "True or False", wrap)
        timing = Timing(
            wrap,
            whole_number("w_frames", w_frames, 0, 10_000),
            whole_number("frames", frames, 0, MOST_FRAMES),
            whole_number("fps", fps, 1, 240),
        )
        condition = condition_of(self._model, class_, label)
        with disk_errors(file):
            write_path(self._model, file, given, options, condition, timing, directions, envelopes)
        return file


def pillow_image(image: Image) -> PillowImage.Image:
    """An image [H, W, 1 or 3] as a Pillow image, gray or RGB."""
    return PillowImage.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _rows(given: Rows, sizes: LatentDrawing) -> list[int] | W:
    if isinstance(given, torch.Tensor) or (isinstance(given, np.ndarray) and given.ndim > 1):
        return ws_of(given, sizes)
    return list(dict.fromkeys(seeds_of(given)))


def _layers(layers: str | Iterable[int], num_ws: int) -> Sequence[int]:
    if isinstance(layers, str):
        return parse_layers(layers, num_ws)
    if not isinstance(layers, Iterable):
        refuse("layers", "numbers, or text such as '4-7,9'", layers)
    return [whole_number("layers", each, 0, num_ws - 1) for each in layers]


def _keyframes(given: Keyframes) -> list[Keyframe]:
    if isinstance(given, str | os.PathLike):
        return read_keyframes(Path(given))
    return keyframes_of(given, "keyframes", Path())


def _refuse_of_seeds(options: RenderOptions, class_: object, label: object) -> None:
    """Refuse arguments that decide the w of seeds, where all w are given."""
    given = {
        "psi": options.psi != 1,
        "truncation_cutoff": options.truncation_cutoff is not None,
        "class_": class_ is not None,
        "label": label is not None,
    }
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(f"{name} has no effect on w; give a seed, or leave it out")


def _curves(curves: object) -> dict[str, Path]:
    if curves is None:
        return {}
    if not isinstance(curves, Mapping):
        refuse("curves", "{name of an edit: file}", curves)
    for name, file in curves.items():
        if not isinstance(file, str | os.PathLike):
            refuse(f"the curve {cut(str(name))}", "the path of an audio or .csv file", file)
    return {str(name): Path(file) for name, file in curves.items()}


def _edits(edits: object) -> dict[str, float]:
    if not isinstance(edits, Mapping):
        raise ConfigError(f"edits must be {{name: strength}}, not {described(edits)}")
    return {
        str(name): number_of(f"the edit {name}", value, MAX_STRENGTH)
        for name, value in edits.items()
    }
