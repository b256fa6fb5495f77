"""Names of training runs: short, and they say what differs."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.config import TrainConfig, load_settings
from sg3flow.data.archive import PackedSet
from sg3flow.errors import ConfigError
from sg3flow.project import project_root
from sg3flow.training.build import resolve
from sg3flow.training.fingerprint import FREE_SETTINGS

_ALWAYS_NAMED = {"cfg", "batch", "gamma"}
_MOST_DIFFERENCES = 6


def run_name(config: TrainConfig, packed: PackedSet) -> str:
    """``<cfg>-<desc or data>-<resolution>px-batch<B>-gamma<G>`` and the settings that differ.

    They are held to the recipe that has the same ``desc``, or else to the defaults, and only those
    count that change the result. A training that is made longer keeps its name.

    Args:
        config: resolved settings.
    """
    what = config.desc or packed.name
    main = f"{config.cfg}-{what}-{packed.resolution}px-batch{config.batch}-gamma{config.gamma:g}"
    words = differences(config, _usual(config))
    if len(words) > _MOST_DIFFERENCES:
        words = [*words[:_MOST_DIFFERENCES], f"and{len(words) - _MOST_DIFFERENCES}more"]
    return "-".join([main, *words])


def differences(config: TrainConfig, usual: Mapping[str, Any]) -> list[str]:
    """A word for each setting that changes the result and is not as ``usual``, in their order."""
    return [
        _word(field.name, getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in FREE_SETTINGS | _ALWAYS_NAMED
        and getattr(config, field.name) != usual[field.name]
        and not (field.name == "batch_gpu" and config.batch_gpu * config.gpus == config.batch)
    ]


def _usual(config: TrainConfig) -> dict[str, Any]:
    """The settings that nobody has to be told of."""
    base: dict[str, Any] = {
        "cfg": config.cfg,
        "gpus": 1,
        "batch": config.batch,
        "gamma": config.gamma,
    }
    try:
        usual = load_settings(TrainConfig, "train", _recipe(config), base)
    except ConfigError:  # a recipe that cannot be read
        usual = TrainConfig(**base)
    # Where these are 0 they follow from cfg.
    filled = resolve(dataclasses.replace(config, glr=usual.glr, map_depth=usual.map_depth))
    return dataclasses.asdict(usual) | {"glr": filled.glr, "map_depth": filled.map_depth}


def _recipe(config: TrainConfig) -> Path | None:
    if not re.fullmatch(r"[\w.-]+", config.desc):
        return None
    path = project_root() / "recipes" / f"{config.desc}.yaml"
    return path if path.is_file() else None


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if name == "aug":
        return str(value)
    if name == "resume":
        # Without @: NAME@ALIAS is a registered version to those who look for a run by its name.
        return "from-" + re.sub(r"[^\w.-]+", "_", PurePosixPath(str(value)).stem)[-40:]
    return f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
