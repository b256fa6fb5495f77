"""Arguments of the Python API: checked, and as the types that rendering takes.

A wrong one is a ConfigError that names the argument, the rule and the value.
"""

import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch

from sg3flow.errors import ConfigError, DataError, cut, described
from sg3flow.output_checks import check_replaceable
from sg3flow.rendering.conditions import Vector, check_label
from sg3flow.rendering.outputs import MAX_SHIFT, check_tiles, is_our_video
from sg3flow.rendering.seeds import MAX_SEED, MAX_SEEDS, RenderOptions
from sg3flow.rendering.w_files import MOST_WS, W, WSizes, checked_ws

MOST_PSI = 2.0
MOST_DEGREES = 36_000
_MOST_LAYERS = 1000
_NUMBERS = (int, float, np.floating, np.integer)  # NumPy's float32 is no float


def refuse(name: str, rule: str, value: object) -> NoReturn:
    """Refuse an argument.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(f"{name} must be {rule}, not {described(value)}") from None


def whole_number(name: str, value: object, least: int, most: int, also: str = "") -> int:
    """A whole number from ``least`` to ``most``; of NumPy, too, but no bool.

    Args:
        also: what else the argument may be, for the message.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        refuse(name, f"a whole number from {least} to {most}{also}", value)
    return number


def number_of(name: str, value: object, most: float) -> float:
    """A number from ``-most`` to ``most``; of NumPy, too, but no bool."""
    is_number = isinstance(value, _NUMBERS) and not isinstance(value, bool)
    if not is_number or not -most <= value <= most:  # type: ignore[operator]
        refuse(name, f"a number from {-most:g} to {most:g}", value)
    return float(value)  # type: ignore[arg-type]


def seed_of(value: object) -> int:
    """A seed."""
    return whole_number("seed", value, 0, MAX_SEED)


def seeds_of(values: object) -> list[int]:
    """Seeds, at least one and at most ``MAX_SEEDS``."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        refuse("seeds", "whole numbers, for example range(8) or [1, 5, 7]", values)
    seeds = []
    for value in values:
        seeds.append(seed_of(value))
        if len(seeds) > MAX_SEEDS:
            raise ConfigError(f"seeds must be at most {MAX_SEEDS}; draw them in parts")
    if not seeds:
        raise ConfigError("seeds must be at least one number")
    return seeds


def options_of(
    psi: object,
    translate: object = (0.0, 0.0),
    rotate: object = 0.0,
    noise_mode: object = "const",
    truncation_cutoff: object = None,
) -> RenderOptions:
    """How to draw: psi, shift in image widths, angle in degrees, noise, layers of psi."""
    if not isinstance(noise_mode, str):
        refuse("noise_mode", "const, random or none", noise_mode)
    if not isinstance(translate, Sequence | np.ndarray) or len(translate) != 2:
        refuse("translate", "two numbers (x, y)", translate)
    x, y = (number_of("translate", part, MAX_SHIFT) for part in translate)
    angle = number_of("rotate", rotate, MOST_DEGREES)
    cutoff = None
    if truncation_cutoff is not None:
        cutoff = whole_number("truncation_cutoff", truncation_cutoff, 0, _MOST_LAYERS)
    return RenderOptions(number_of("psi", psi, MOST_PSI), noise_mode, (x, y), angle, cutoff)


def label_of(label: object) -> Vector:
    """The numbers of a label."""
    numbers = list(label) if isinstance(label, Sequence | np.ndarray) else []
    if not numbers or not all(isinstance(each, _NUMBERS) for each in numbers):
        refuse("label", "a list of numbers, for example [0.5, -1]", label)
    return check_label(tuple(map(float, numbers)))


def one_w_of(w: npt.ArrayLike | torch.Tensor, sizes: WSizes) -> W:
    """The w of an image, float32 [num_ws, w_dim], its own copy."""
    w_of_image: W = checked_ws(_numbers(w), sizes, 1)[0]
    return w_of_image


def ws_of(w: npt.ArrayLike | torch.Tensor, sizes: WSizes) -> W:
    """The w of images, float32 [N, num_ws, w_dim], their own copy."""
    return checked_ws(_numbers(w), sizes, MOST_WS)


def _numbers(w: npt.ArrayLike | torch.Tensor) -> npt.NDArray[np.number]:
    """Real numbers, as a file of w has them: text, complex numbers and bools are refused."""
    try:
        found: npt.NDArray[np.number] = np.asarray(_array(w) if isinstance(w, torch.Tensor) else w)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        refuse("w", "an array of numbers", w)
    if found.dtype.kind not in "fiu":
        refuse("w", "an array of numbers", w)
    return found


def _array(w: torch.Tensor) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = (w.float() if w.is_floating_point() else w).detach().cpu().numpy()
    return found  # through float32, as NumPy has no bfloat16


def tiles_of(grid: object) -> tuple[int, int]:
    """Tiles of a video, across and down."""
    if not isinstance(grid, Sequence) or isinstance(grid, str) or len(grid) != 2:
        refuse("grid", "two numbers, tiles across and down", grid)
    across, down = (whole_number("grid", each, 1, 256) for each in grid)
    return check_tiles(across, down)


def video_path_of(path: object) -> Path:
    """The path of a video, at which nothing else is.

    Raises:
        DataError: something else is there.
    """
    if not isinstance(path, str | os.PathLike):
        refuse("path", "the path of an .mp4 file", path)
    file = Path(path)
    if file.suffix.lower() != ".mp4":
        raise ConfigError(f"path must end in .mp4, the form of the video, not '{cut(file.name)}'")
    check_replaceable(file, is_our_video, "a render", "path")
    return file


@contextmanager
def disk_errors(file: Path) -> Iterator[None]:
    """Turn an error of the disk inside the block into a sentence about ``file``.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror or error}") from None
