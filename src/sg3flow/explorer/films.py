"""The film of a page: a loop through pictures, which ``render path`` makes again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sg3flow.errors import ConfigError
from sg3flow.explorer.command_lines import command_line, device_option, placement_options
from sg3flow.explorer.jobs import Job, JobRunner
from sg3flow.explorer.picture_renderer import PictureRenderer
from sg3flow.explorer.pictures import Picture, read_picture
from sg3flow.files import write_json
from sg3flow.rendering.call_arguments import whole_number
from sg3flow.rendering.images import Model
from sg3flow.rendering.paths import Points, path_images
from sg3flow.rendering.seeds import RenderOptions
from sg3flow.rendering.video import video_frame, write_mp4
from sg3flow.rendering.w_files import write_w

FILM_FILE, KEYFRAMES_FILE, W_FILE = "film.mp4", "keyframes.json", "keyframes.npz"
_MAX_PICTURES, _MAX_STEP, _MAX_FPS = 64, 600, 120


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
    """Start to draw a film; its files are ``film.mp4`` and those that its command reads.

    Raises:
        ConfigError: a picture has no w any more, or the pictures have different noise.
        TooBusyError: too many jobs wait.
    """
    noise = {picture.options.noise_mode for picture in film.pictures}
    if len(noise) > 1:
        raise ConfigError("the pictures of a film must have the same noise")
    options = RenderOptions(noise_mode=noise.pop())
    ws = np.concatenate([renderer.w(picture) for picture in film.pictures])
    motions = np.array([(*p.options.translate, p.options.rotate) for p in film.pictures])
    total = film.frames * len(film.pictures)

    def draw(job: Job, model: Model) -> None:
        write_w(job.folder / W_FILE, ws)
        write_json(job.folder / KEYFRAMES_FILE, _keyframes(motions))
        points = Points(ws, motions, np.zeros((len(ws), 0)), ())
        images = path_images(model, points, options, total, is_closed=True)
        write_mp4(map(video_frame, images), job.folder / FILM_FILE, film.fps)

    words = ["sg3flow", "render", "path", "--network", network, "--keyframes", KEYFRAMES_FILE]
    words += ["--wrap", f"--w-frames={film.frames}", f"--fps={film.fps}"]
    words += [*placement_options(options), *device_option(device), "--output", FILM_FILE]
    shown = {"command": command_line(words), "files": [KEYFRAMES_FILE, W_FILE]}
    return jobs.start("film", total, draw, shown)


def _keyframes(motions: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Keyframes for ``render path``: the w of the file ``W_FILE`` with their movements."""
    return [
        {"w": W_FILE, "index": index, "x": x, "y": y, "angle": angle}
        for index, (x, y, angle) in enumerate(motions.tolist())
    ]
