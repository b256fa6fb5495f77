"""The commands of a sweep over one setting.

They are plain DVC commands. They are printed and not run, so that the user can read them first.
"""

import math
import shlex
import typing
from pathlib import Path

from sg3flow.config import TrainConfig
from sg3flow.errors import ConfigError, cut, nearest
from sg3flow.params_file import load_settings, read_params

_MOST = 20


def sweep_commands(params: Path, setting: str, factors: str) -> list[str]:
    """The commands that queue, run and compare the experiments of a sweep.

    Args:
        params: the params file whose ``train`` section has the present value.
        setting: a numeric setting of the training, such as ``gamma``.
        factors: comma-separated factors for the current value. The others are compared with the
            experiment of factor 1, or with the first one if 1 is not among the factors.

    Raises:
        ConfigError: the params file has no such number, or the factors cannot be used.
    """
    load_settings(TrainConfig, "train", params)
    name, current = _current_value(params, setting)
    values = {factor: _product(name, current, factor) for factor in _factors(factors)}
    names = {factor: f"{name}-{value}" for factor, value in values.items()}
    if len(set(names.values())) < len(names):
        raise ConfigError(f"factors {cut(factors)} of {name} {current:g} give the same value twice")
    for value in values.values():
        load_settings(TrainConfig, "train", params, {name: type(current)(value)})
    base = 1.0 if 1.0 in names else next(iter(names))
    others = [each for factor, each in names.items() if factor != base]
    return [
        f"# {name} {current:g} of {params.name} times {', '.join(f'{f:g}' for f in values)}",
        *(
            f"dvc exp run --queue --name {names[f]} -S train.{name}={value}"
            for f, value in values.items()
        ),
        "dvc exp run --run-all",
        shlex.join(["sg3flow", "compare", names[base], *others])
        + f" --out reports/sweep-{name}.html",
    ]


def _current_value(params: Path, setting: str) -> tuple[str, int | float]:
    """The setting as spelled in the file, map_depth or map-depth, and its value."""
    section = read_params(params).get("train")
    known = section if isinstance(section, dict) else {}
    numbers = {
        str(name).replace("-", "_"): (str(name), value)
        for name, value in known.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    field = setting.replace("-", "_")
    if field not in numbers:
        raise ConfigError(
            f"train.{cut(setting)} is not a number in {params}{nearest(field, numbers)}; "
            f"numbers are {', '.join(numbers) or 'none'}"
        )
    name, value = numbers[field]
    if value == 0:
        raise ConfigError(f"train.{name} is 0, and so is every multiple; set another value first")
    kind = typing.get_type_hints(TrainConfig)[field]  # `gamma: 2` is a float
    return name, float(value) if kind is float else value


def _factors(text: str) -> list[float]:
    try:
        factors = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"factors must be numbers such as 0.5,1,2, not '{cut(text)}'") from None
    if not all(math.isfinite(f) and f > 0 for f in factors) or not 2 <= len(factors) <= _MOST:
        raise ConfigError(f"factors must be 2 to {_MOST} positive numbers, not '{cut(text)}'")
    return factors


def _product(setting: str, current: int | float, factor: float) -> str:
    value = current * factor
    if not math.isfinite(value):
        raise ConfigError(f"train.{setting} is {current:g}; {factor:g} times that is too large")
    if isinstance(current, float):
        return f"{value:.6g}"
    if value != int(value):
        raise ConfigError(f"train.{setting} is a whole number; {current} times {factor:g} is not")
    return str(int(value))
