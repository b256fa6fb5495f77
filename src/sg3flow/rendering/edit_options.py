"""Edits as options of a command or arguments of a call, for the network that draws them."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sg3flow.config import RenderOptionsConfig
from sg3flow.errors import ConfigError, described
from sg3flow.rendering.edits import Directions, parse_edits, read_directions, resolve_edits
from sg3flow.rendering.images import Model
from sg3flow.rendering.seeds import RenderOptions

Given = str | os.PathLike[str] | Directions | None

_log = logging.getLogger(__name__)


def edits_of(config: RenderOptionsConfig) -> dict[str, float]:
    """The edits of a command by name; they are checked before a network is loaded.

    Raises:
        ConfigError: another form, or directions without an edit.
        DataError: the file of directions cannot be used.
    """
    edits = parse_edits(config.edit)
    if config.directions:
        known = read_directions(Path(config.directions))
        if not edits:
            raise ConfigError(
                "--directions has no effect without an edit; add --edit "
                f"{known.names[0]}={known.scales[0]:.3g}, for example"
            )
        resolve_edits(known, edits)
    return edits


def with_edits(
    options: RenderOptions, model: Model, edits: Mapping[str, float] | None, directions: Given
) -> RenderOptions:
    """The options with the offset of some edits of a network; without edits unchanged.

    Args:
        edits: strength of each direction by its name, in units of w.
        directions: a file or its content; None or empty: those registered with the network.

    Raises:
        ConfigError: unknown names, wrong strengths, no directions, or those of a network of other
            sizes.
        DataError: the file cannot be used.
    """
    if edits is None:
        return options
    if not isinstance(edits, Mapping):
        raise ConfigError(f"edits must be {{name: strength}}, not {described(edits)}")
    if not edits:
        return options
    return replace(options, edit=resolve_edits(directions_of(model, directions), edits))


def directions_of(model: Model, directions: Given) -> Directions:
    """The directions for edits of a network: given ones, or those registered with it.

    A warning tells if they are of other weights.

    Raises:
        ConfigError, DataError: as ``with_edits``.
    """
    known = _directions(model, directions)
    sizes = (model.G.num_ws, model.G.w_dim)
    if known.vectors.shape[1:] != sizes:
        raise ConfigError(
            f"the directions are for a network with w of {list(known.vectors.shape[1:])}, "
            f"{model.source} has {list(sizes)}; make its own with `sg3flow directions`"
        )
    if known.network and known.network != model.digest:
        _log.warning(
            "warning: the directions are of another network (weights %s…) than %s",
            known.network[:12],
            model.source,
        )
    return known


def _directions(model: Model, given: Given) -> Directions:
    if isinstance(given, Directions):
        return given
    if given is not None and not isinstance(given, str | os.PathLike):
        raise ConfigError(
            f"directions must be a path or the content of such a file, not {described(given)}"
        )
    if given:
        return read_directions(Path(given))
    if model.directions_file is not None:
        return read_directions(model.directions_file)
    raise ConfigError(
        f"edits need directions, and {model.source} has none; give a file, which "
        "`sg3flow directions` makes"
    )
