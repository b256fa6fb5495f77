"""The losses of a training as a small table (CSV), which ``dvc plots`` draws.

``stats.jsonl`` has every statistic of every tick: megabytes after 25,000 kimg, in a format that DVC
does not read.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sg3flow.files import write_text
from sg3flow.runs.run_folder import LOSSES, STATS, read_whole_lines

# Columns of the table, and their names in stats.jsonl.
CURVES = {
    "G_loss": "Loss/G/loss",
    "D_loss": "Loss/D/loss",
    "r1_penalty": "Loss/r1_penalty",
    "real_scores": "Loss/scores/real",
    "fake_scores": "Loss/scores/fake",
    "augment_p": "Progress/augment",
}
MOST_ROWS = 500


def write_losses(folder: Path) -> None:
    """Write the table of a run folder from its statistics; nothing if it has none."""
    ticks = read_whole_lines(folder / STATS)
    if not ticks:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kimg", *CURVES])
    rows = [_row(group) for group in thinned(ticks)]
    writer.writerows(row for row in rows if row[1])  # a tick before the first step has no losses
    write_text(folder / LOSSES, text.getvalue())


def thinned(ticks: Sequence[Any]) -> list[Sequence[Any]]:
    """Groups of consecutive ticks: each of one tick, or more so that there are few groups."""
    size = math.ceil(len(ticks) / MOST_ROWS)
    return [ticks[i : i + size] for i in range(0, len(ticks), size)]


def _row(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """The kimg at the end of a group of ticks, and the mean of each curve; empty: no value."""
    return [f"{group[-1]['nimg'] / 1000:g}", *(_mean(group, name) for name in CURVES.values())]


def _mean(group: Sequence[Mapping[str, Any]], name: str) -> str:
    """The mean over all values of a group, each of which a tick has summed up as num and mean."""
    found = [tick[name] for tick in group if name in tick and tick[name]["num"] > 0]
    count = sum(stat["num"] for stat in found)
    mean = sum(stat["num"] * stat["mean"] for stat in found) / count if count else math.nan
    return f"{mean:.6g}" if math.isfinite(mean) else ""
