"""The film of a page: a loop through pictures, as ``render video`` makes it of seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sg3flow.errors import ConfigError
from sg3flow.explorer.command_lines import command_line, device_option, placement_options
from sg3flow.explorer.jobs import Job, JobRunner
from sg3flow.explorer.picture_renderer import PictureRenderer
from sg3flow.explorer.pictures import Picture, read_picture
from sg3flow.rendering.call_arguments import whole_number
from sg3flow.rendering.images import Model
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import write_loop
from sg3flow.rendering.w_files import write_w

FILM_FILE, KEYFRAMES_FILE = "film.mp4", "keyframes.npz"
_MAX_PICTURES, _MAX_STEP, _MAX_FPS, _MAX_FRAMES = 64, 600, 120, 10_000


@dataclass(frozen=True)
class Film:
    """A closed loop through pictures.

    Args:
        pictures: the keyframes, two at least.
        frames: from one keyframe to the next.
        fps: frames per second.
    """

    pictures: Sequence[Picture]
    frames: int
    fps: int


def read_film(content: Mapping[str, Any], model: Model) -> Film:
    """A film from the JSON of a page.

    Raises:
        ConfigError: a number is out of range, or a picture is wrong.
    """
    given = content.get("pictures")
    if not isinstance(given, list) or not 2 <= len(given) <= _MAX_PICTURES:
        raise ConfigError(f"a film must have 2 to {_MAX_PICTURES} pictures")
    frames = whole_number("frames", content.get("frames", 60), 1, _MAX_STEP)
    fps = whole_number("fps", content.get("fps", 30), 1, _MAX_FPS)
    return Film([read_picture(each, model) for each in given], frames, fps)


def start_film(
    film: Film, jobs: JobRunner, renderer: PictureRenderer, network: str, device: str
) -> Job:
    """Start to draw a film, ``film.mp4``, from the w of its pictures, ``keyframes.npz``.

    Raises:
        ConfigError: a picture has no w any more, or the pictures are moved differently.
        TooBusyError: too many jobs wait.
    """
    options = _common_options(film)
    ws = np.concatenate([renderer.w(picture) for picture in film.pictures])

    def draw(job: Job, model: Model) -> None:
        write_w(job.folder / KEYFRAMES_FILE, ws)
        with model.named():
            write_loop(
                model.G,
                ws,
                job.folder / FILM_FILE,
                options=options,
                frames_per_keyframe=film.frames,
                fps=film.fps,
            )

    command = _command(film, options, network, device)
    shown = {"command": command, "keyframes": KEYFRAMES_FILE}
    return jobs.start("film", film.frames * len(film.pictures), draw, shown)


def _common_options(film: Film) -> RenderOptions:
    """Movement and noise of the pictures; the rest is in their w."""
    first, *others = (replace(each.options, psi=1.0) for each in film.pictures)
    if any(each != first for each in others):
        raise ConfigError("the pictures of a film must have the same shift, angle and noise")
    return first


def _command(film: Film, options: RenderOptions, network: str, device: str) -> str:
    words = ["sg3flow", "render", "video", "--network", network, "--projected-w", KEYFRAMES_FILE]
    words += [f"--w-frames={film.frames}", f"--fps={film.fps}", *placement_options(options)]
    return command_line([*words, *device_option(device), "--output", FILM_FILE])
