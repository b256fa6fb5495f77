"""Which snapshots of a training stay on the disk, and which of them something still needs.

``keep_snapshots`` is ``all``, ``last N`` or ``best N``. Whatever it says, four kinds stay: the
newest, the best one that is known, those that were registered, and those that another training in
the state folder started from. Evaluate and register run in other processes, maybe weeks later, so
they note what they chose in ``kept-snapshots.jsonl`` of the state folder.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import ConfigError, cut
from sg3flow.runs.best_snapshot import REPORT_NAME, SUMMARY_NAME
from sg3flow.runs.run_folder import (
    RUN,
    append_row,
    list_snapshots,
    metric_file,
    read_run,
    read_uid,
    read_whole_lines,
    snapshot_digests,
)
from sg3flow.settings import project_root, state_root

ALL, LAST, BEST = "all", "last", "best"
REGISTERED = "registered"
_FORM = re.compile(r"(last|best) +([1-9][0-9]{0,5})")
_NOTES = "kept-snapshots.jsonl"


@dataclass(frozen=True)
class Retention:
    """A rule: ``all`` snapshots, the ``last`` or the ``best`` ``count`` of them."""

    kind: str = ALL
    count: int = 0


def parse_retention(text: str, where: str = "train.keep_snapshots") -> Retention:
    """The rule in a text: ``all``, ``last 3``, ``best 5``.

    Args:
        where: name of the setting or option, for the message.

    Raises:
        ConfigError: it is none of these.
    """
    if text.strip() == ALL:
        return Retention()
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{where} must be all, last N or best N with a number from 1, for example 'last 3', "
            f"not '{cut(text)}'"
        )
    return Retention(match[1], int(match[2]))


def surplus(
    rule: Retention, names: Sequence[str], ranking: Sequence[str], needed: set[str]
) -> list[str]:
    """The snapshots that a rule removes.

    Args:
        names: of the snapshots that are there, the oldest first.
        ranking: names of those whose metric is known, the best first.
        needed: names of those that stay in any case.
    """
    if rule.kind == ALL or not names:
        return []
    kept = needed | {names[-1], *ranking[:1]}
    if rule.kind == LAST:
        kept |= set(names[-rule.count :])
    else:  # one that was never measured may be the best
        kept |= set(ranking[: rule.count]) | (set(names) - set(ranking))
    return [name for name in names if name not in kept]


def rank_measured(folder: Path, metric: str, higher_is_better: bool) -> list[str]:
    """The snapshots in a run folder that the training measured by a metric, the best first.

    Of equal values the earlier snapshot comes first, as in evaluate.
    """
    there = [path.name for path in list_snapshots(folder)]
    values: dict[str, float] = {}
    for row in read_whole_lines(folder / metric_file(metric)):
        values[row["snapshot_pkl"]] = row["results"][metric]
    sign = -1 if higher_is_better else 1
    return sorted((n for n in there if n in values), key=lambda name: sign * values[name])


def needed_snapshots(folder: Path) -> set[str]:
    """Names of the snapshots of a work folder that are known to be best, registered or in use."""
    digests = snapshot_digests(folder)
    noted = {row["sha256"] for row in _notes()} | _reported_digests(project_root())
    used = {path.name for path in _starts() if path.parent == folder.resolve()}
    return {name for name, digest in digests.items() if digest in noted} | used


def _reported_digests(root: Path) -> set[str]:
    """SHA-256 of the snapshots that the reports of a project call best or registered."""
    digests = set[str]()
    reports = (
        (REPORT_NAME, _best_digests),
        (SUMMARY_NAME, _best_digests),  # up to version 0.2 it was the report
        ("registered.json", _registered_digest),
    )
    for name, pick in reports:
        try:
            report = json.loads((root / "reports" / name).read_text(encoding="utf-8"))
            digests |= pick(report)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # no report, or one that says nothing
    return digests


def _best_digests(report: Any) -> set[str]:
    best = report["best"]["snapshot"]
    return {str(r["network_sha256"]) for r in report["results"] if r["snapshot"] == best}


def _registered_digest(report: Any) -> set[str]:
    return {str(report["snapshot_sha256"])}


def note_best(run_dir: Path, report: Mapping[str, Any]) -> None:
    """Note the best snapshot of an evaluation: it replaces the one of the last evaluation.

    Args:
        report: the content of ``reports/evaluation.json``.
    """
    best = report["best"]
    rows = [row for row in report["results"] if row["snapshot"] == best["snapshot"]]
    _note(run_dir, str(best["snapshot"]), str(rows[0]["network_sha256"]), BEST)


def note_registered(run_dir: Path, report: Mapping[str, Any]) -> None:
    """Note a registered snapshot.

    Args:
        report: the content of ``reports/registered.json``.
    """
    _note(run_dir, str(report["snapshot"]), str(report["snapshot_sha256"]), REGISTERED)


def _note(run_dir: Path, name: str, sha256: str, why: str) -> None:
    uid = read_uid(run_dir)
    if any((row["uid"], row["sha256"], row["why"]) == (uid, sha256, why) for row in _notes()):
        return
    row = {"uid": uid, "snapshot": name, "sha256": sha256, "why": why, "timestamp": time.time()}
    try:
        state_root().mkdir(parents=True, exist_ok=True)
        append_row(state_root() / _NOTES, row)
    except OSError as error:
        print(
            f"warning: not noted as {why}, so keep_snapshots may remove {name}: {error}",
            file=sys.stderr,
        )


def _notes() -> list[dict[str, Any]]:
    """The notes that are in force: all that were registered, and the last best one of each run."""
    rows = read_whole_lines(state_root() / _NOTES)
    best = {row["uid"]: row for row in rows if row["why"] == BEST}
    return [row for row in rows if row["why"] != BEST] + list(best.values())


def _starts() -> Iterator[Path]:
    """The local files that the trainings in the state folder started from."""
    for described in state_root().glob(f"*/run/{RUN}"):
        resume = ((read_run(described.parent) or {}).get("params") or {}).get("resume")
        if isinstance(resume, str) and resume:
            with suppress(ValueError):  # no path: it has a character that none can have
                yield Path(resume).absolute().resolve()


def check_retention(text: str, ranked_by: object) -> Retention:
    """The rule of a training.

    Args:
        ranked_by: what ranks its snapshots; None: it measures none.

    Raises:
        ConfigError: the text is no rule, or it needs a metric.
    """
    rule = parse_retention(text)
    if rule.kind == BEST and ranked_by is None:
        raise ConfigError(
            f"train.keep_snapshots {cut(text)} needs a metric during training: set train.metrics, "
            f"for example fid50k_full; or keep all and run `sg3flow clean --snapshots "
            f"'{cut(text)}'` after evaluate"
        )
    return rule
