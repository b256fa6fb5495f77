"""Names of runs for people: short, and what differs comes first.

``gamma 0.4 · t32 · starter`` is a training with another gamma than the recipe, of StyleGAN3-T at 32
pixels, on the set starter. Stages are called after themselves and the set: ``evaluate · starter``.
A name need not be unique, because runs have ids.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

SEPARATOR = " · "
_MOST_DIFFERENCES = 5
_MOST_OF_WORD = 32  # characters
_CFGS = {"stylegan3-t": "t", "stylegan3-r": "r", "stylegan2": "sg2-"}
_FIRST = ("gamma", "batch", "resume", "cbase", "cmax", "glr", "dlr")


def training_name(
    differing: Mapping[str, Any], cfg: str, resolution: int, set_name: str, experiment: str = ""
) -> str:
    """The name of a training.

    Args:
        differing: the settings that differ from the recipe or the defaults.
        set_name: the recipe, or else the set.
        experiment: of DVC; it comes first.
    """
    order = sorted(differing, key=lambda name: _FIRST.index(name) if name in _FIRST else 99)
    words = [_word(name, differing[name]) for name in order]
    if len(words) > _MOST_DIFFERENCES:
        words = [*words[:_MOST_DIFFERENCES], f"+{len(words) - _MOST_DIFFERENCES} more"]
    network = f"{_CFGS.get(cfg, f'{cfg} ')}{resolution}"
    parts = [_cut(experiment), *words, network, _cut(set_name)]
    return SEPARATOR.join(part for part in parts if part)


def stage_name(stage: str, set_name: str) -> str:
    """The name of the run of a stage other than train."""
    return SEPARATOR.join(part for part in (stage, _cut(set_name)) if part)


def typed_name(name: str) -> str:
    """A name as one types it: words with one space between them, in lower case."""
    return " ".join(name.replace(SEPARATOR.strip(), " ").lower().split())


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if name == "aug":
        return str(value)
    if name == "resume":
        # Without @: where a run name is expected, NAME@ALIAS means a registered version.
        return "from " + re.sub(r"[^\w.-]+", "_", PurePosixPath(str(value)).stem)[-_MOST_OF_WORD:]
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return _cut(f"{name} {shown}")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_OF_WORD else f"{line[: _MOST_OF_WORD - 1]}…"
