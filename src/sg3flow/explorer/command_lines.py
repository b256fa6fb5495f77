"""The command that makes the picture of a page again, byte for byte."""

import shlex
from collections.abc import Sequence

from sg3flow.explorer.direction_sets import FILE, DirectionSets
from sg3flow.explorer.pictures import Picture
from sg3flow.rendering.conditions import Condition
from sg3flow.rendering.seeds import RenderOptions

OUTDIR, W_FILE, DIRECTIONS_FILE = "pictures", "picture.npz", "directions.npz"


def picture_command(
    network: str, device: str, picture: Picture, sets: DirectionSets
) -> dict[str, str]:
    """``command``, and a ``note`` about a file that it needs; empty: it needs none."""
    words = ["sg3flow", "render", "images", "--network", network]
    note = ""
    if picture.needs_w:
        words += ["--projected-w", W_FILE]
        note = f"It reads {W_FILE}: save the w under that name."
    else:
        words += ["--seeds", str(picture.seed), *_psi(picture.options)]
        words += _condition(picture.condition)
        if picture.edits:
            is_file = picture.directions == FILE
            words += ["--directions", sets.file_name if is_file else DIRECTIONS_FILE]
            words += [w for name, s in picture.edits for w in ("--edit", f"{name}={s!r}")]
            note = "" if is_file else f"It reads {DIRECTIONS_FILE}: save the directions."
    words += [*placement_options(picture.options), *device_option(device), "--outdir", OUTDIR]
    return {"command": command_line(words), "note": note}


def command_line(words: Sequence[str]) -> str:
    """Words as a shell takes them."""
    return shlex.join(words)


def device_option(device: str) -> list[str]:
    """The option of a device; none for the usual choice."""
    return [] if device == "auto" else ["--device", device]


def _psi(options: RenderOptions) -> list[str]:
    return [] if options.psi == 1 else [f"--trunc={options.psi!r}"]


def _condition(condition: Condition) -> list[str]:
    if condition is None:
        return []
    if isinstance(condition, int):
        return ["--class", str(condition)]
    return ["--label=" + ",".join(map(repr, condition))]


def placement_options(options: RenderOptions) -> list[str]:
    """Options of translation, rotation and noise."""
    x, y = options.translate
    words = [f"--translate={x!r},{y!r}"] if (x, y) != (0, 0) else []
    words += [f"--rotate={options.rotate!r}"] if options.rotate else []
    return words + ([] if options.noise_mode == "const" else ["--noise-mode", options.noise_mode])
