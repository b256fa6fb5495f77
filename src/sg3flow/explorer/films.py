"""The film of a page: a loop through pictures, as ``render video`` makes it of seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sg3flow.errors import ConfigError
from sg3flow.explorer.command_lines import command_line, device_option
from sg3flow.explorer.jobs import Job, JobRunner
from sg3flow.explorer.picture_renderer import PictureRenderer
from sg3flow.explorer.pictures import Picture, read_picture
from sg3flow.rendering.call_arguments import whole_number
from sg3flow.rendering.images import Model
from sg3flow.rendering.video import write_interpolation

FILM_FILE = "film.mp4"
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
    """Start to draw a film; its file is ``film.mp4``.

    Raises:
        ConfigError: the pictures differ in more than their seeds.
        TooBusyError: too many jobs wait.
    """
    first = film.pictures[0]
    if any(each.options != first.options or each.needs_w or each.edits for each in film.pictures):
        raise ConfigError("the pictures of a film must differ in their seeds only")

    def draw(job: Job, model: Model) -> None:
        write_interpolation(
            model.G,
            [each.seed for each in film.pictures],
            job.folder / FILM_FILE,
            options=first.options,
            classes=[each.condition for each in film.pictures],
            frames_per_keyframe=film.frames,
            fps=film.fps,
        )

    job = jobs.start("film", film.frames * len(film.pictures), draw)
    words = ["sg3flow", "render", "video", "--network", network, *device_option(device)]
    words += ["--seeds", ",".join(str(each.seed) for each in film.pictures)]
    words += [f"--w-frames={film.frames}", f"--fps={film.fps}", "--output", FILM_FILE]
    job.shown["command"] = command_line(words)
    return job
