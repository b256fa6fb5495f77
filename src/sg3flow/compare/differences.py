"""Settings and surroundings in which runs differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sg3flow.compare.facts import Facts, letter

# The order in which sections of params.yaml are read.
_SECTIONS = ("train", "pack", "fetch", "validate", "evaluate", "render", "register")


@dataclass(frozen=True)
class Difference:
    """One thing in which runs differ.

    Attributes:
        name: of the setting.
        values: of each run; None: not recorded.
    """

    name: str
    values: tuple[str | None, ...]


def differing(recorded: Sequence[Mapping[str, str]]) -> list[Difference]:
    """The names that have at least two different values among those who recorded them."""
    names = list(dict.fromkeys(name for values in recorded for name in values))
    rows = [Difference(name, tuple(each.get(name) for each in recorded)) for name in names]
    return [row for row in rows if len(set(row.values) - {None}) > 1]


def differing_params(runs: Sequence[Facts]) -> list[Difference]:
    """Settings that differ, those of the training first."""
    found = differing([run.params for run in runs])
    return sorted(found, key=lambda row: (_section_rank(row.name), row.name))


def differing_environment(runs: Sequence[Facts]) -> list[Difference]:
    """Surroundings that differ: data, code, torch, ops, device."""
    return differing([run.environment for run in runs])


def not_recorded(runs: Sequence[Facts]) -> list[str]:
    """A line for each run that lacks settings which another one recorded in the same section."""
    every = dict.fromkeys(name for run in runs for name in run.params)
    lines = []
    for index, run in enumerate(runs):
        sections = {name.partition(".")[0] for name in run.params}
        missing = [n for n in every if n not in run.params and n.partition(".")[0] in sections]
        if missing:
            shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            lines.append(f"{letter(index)} did not record {shown}")
    return lines


def _section_rank(name: str) -> int:
    section = name.partition(".")[0]
    return _SECTIONS.index(section) if section in _SECTIONS else len(_SECTIONS)
