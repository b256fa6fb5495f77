"""The directions that a model is registered with, checked for its generator."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sg3flow.checkpoints.loading import DIRECTIONS_NAME
from sg3flow.errors import ConfigError
from sg3flow.files import sha256_file
from sg3flow.rendering.edits import Directions, read_directions
from sg3flow.rendering.images import RenderedGenerator


@dataclass(frozen=True)
class RegisteredDirections:
    """A copy of a directions file, its SHA-256, and its content."""

    path: Path
    sha256: str
    content: Directions


def directions_to_register(
    given: str, folder: Path, G: RenderedGenerator, weights_sha256: str
) -> RegisteredDirections | None:
    """Copy the directions into ``folder`` and check them; None: none are given.

    Those of another network of the same sizes are accepted with a note: directions often keep their
    meaning when a network is trained further.

    Args:
        given: the setting ``register.directions``.
        weights_sha256: of the generator.

    Raises:
        ConfigError: they are for a network of other sizes.
        DataError: the file cannot be used.
    """
    if not given:
        return None
    content = read_directions(Path(given))
    found, expected = content.vectors.shape[1:], (G.num_ws, G.w_dim)
    if found != expected:
        raise ConfigError(
            f"register.directions: {given} is for a network with w of {list(found)}, the best "
            f"snapshot has {list(expected)}; make its own with `sg3flow directions`"
        )
    if content.network and content.network != weights_sha256:
        print(
            f"note: the directions of {given} were made with another network (weights "
            f"{content.network[:12]}…) than the best snapshot",
            file=sys.stderr,
        )
    path = Path(shutil.copyfile(given, folder / DIRECTIONS_NAME))
    return RegisteredDirections(path, sha256_file(path), content)
