"""What a check reports: a row per number of another tool, beside ours.

A file `check_<name>.py` in this folder is a program that the runner starts as

    build/peers/bin/python benchmarks/peers/check_<name>.py OUT.json

with `src` on the path. It has a function that yields rows, and ends with `report_rows(function)`.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One number of another tool beside ours.

    Attributes:
        case: what both computed, in words: part of the table.
        tool: name of its package; the version is added.
        theirs, ours: the two numbers. For arrays: their largest absolute value, and ours.
        difference: relative; None: that of the two numbers.
        limit: the largest relative difference that counts as equal; None: they are known to differ
            and the note says why.
        name: our name of the metric or protocol; empty: none.
        note: what explains a difference.
    """

    case: str
    tool: str
    theirs: float
    ours: float
    limit: float | None
    difference: float | None = None
    name: str = ""
    note: str = ""

    @property
    def relative(self) -> float:
        """The relative difference."""
        if self.difference is not None:
            return self.difference
        return abs(self.ours - self.theirs) / max(abs(self.theirs), 1e-300)

    @property
    def holds(self) -> bool:
        """Whether the difference is within the limit; not a number is not."""
        return self.limit is None or self.relative <= self.limit

    def content(self) -> dict[str, object]:
        """For the results, with the version of the tool."""
        return asdict(self) | {"version": version(self.tool), "difference": self.relative}


def report_rows(check: Callable[[], Iterable[Row]]) -> None:
    """Write the rows to the file that the command line names; end with an error if one differs."""
    rows = list(check())
    Path(sys.argv[1]).write_text(json.dumps([row.content() for row in rows], indent=1) + "\n")
    wrong = [row for row in rows if not row.holds]
    for row in wrong:
        print(
            f"error: {row.case}: {row.tool} gives {row.theirs!r}, ours {row.ours!r}: "
            f"{row.relative:.2g} apart, more than {row.limit:g}",
            file=sys.stderr,
        )
    sys.exit(len(wrong) > 0)
