"""Removes snapshots of a finished training after evaluate: ``sg3flow clean --snapshots 'best 3'``.

A snapshot of the default set-up has a name in the output folder, in the state folder, in MLflow's
local store and in DVC's cache. The first three are removed, and DVC is told that the output folder
now is as it should be; only ``dvc gc`` removes from its cache, because another commit may need it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import ConfigError, DataError, Sg3flowError, cut, listed
from sg3flow.files import copy_file
from sg3flow.runs.best_snapshot import best_snapshot, read_report
from sg3flow.runs.old_states import training_lock
from sg3flow.runs.removal import Removable, is_free
from sg3flow.runs.run_folder import (
    EVENTS,
    RUN,
    JsonlReporter,
    list_snapshots,
    read_uid,
    snapshot_digests,
    snapshot_kimg,
)
from sg3flow.runs.snapshot_retention import BEST, Retention, needed_snapshots, surplus
from sg3flow.settings import TRACKING, local_database, project_root, state_root
from sg3flow.tracking.unneeded_records import artifacts_with_digest, registered_digests
from sg3flow.tracking.uploader import Uploader
from sg3flow.yaml_text import load_yaml

GROUP = "snapshots"
_DVC_SEC = 3600
_MOST_NAMES = 20


@dataclass(frozen=True)
class Pruning:
    """Snapshots of a run that are to be removed.

    Attributes:
        run_dir: the output folder.
        work: the folder of the same run in the state folder; None: it is not here.
        items: what is removed.
        stages: DVC's stages that make or read the output folder; empty: DVC does not know it.
    """

    run_dir: Path
    work: Path | None
    items: list[Removable]
    stages: list[str]

    def words(self) -> str:
        """Which snapshots stay and which go, by name."""
        removed = {item.path.name for item in self.items if item.path.parent == self.run_dir}
        kept = [path.name for path in list_snapshots(self.run_dir) if path.name not in removed]
        gone = listed(sorted(removed), _MOST_NAMES) or "nothing"
        return f"keeps {listed(kept, _MOST_NAMES)}; removes {gone}"

    def require_free(self) -> None:
        """Raise DataError if a training of this run is in progress."""
        if not all(map(is_free, self.items)):
            raise DataError(f"a process is training in {self.work}; nothing was removed")

    def record(self) -> None:
        """Note in the run's events what will be removed; MLflow learns it from there."""
        if self.work is None:
            return
        reporter = JsonlReporter(self.work)
        names = {item.path.name for item in self.items if item.path.parent == self.work}
        for name in sorted(names):
            reporter.pruned(self.work / name, (snapshot_kimg(name) or 0) * 1000)
        copy_file(self.work / EVENTS, self.run_dir / EVENTS)

    def finish(self) -> None:
        """Tell DVC and MLflow.

        Raises:
            DataError: DVC cannot record the change.
        """
        if self.stages:
            _dvc("commit", "--quiet", "--force", *self.stages)
        if self.work is None or TRACKING.text().lower() == "off":
            return
        try:
            Uploader(self.work).send()
        except Sg3flowError as error:
            print(f"warning: {error}; run `sg3flow sync` later", file=sys.stderr)


def plan_pruning(run_dir: Path, report: Path, rule: Retention) -> Pruning:
    """What a rule removes from a run.

    Args:
        run_dir: the output folder of the training.
        report: ``reports/evaluation.json`` or its summary; without it the best is not known.

    Raises:
        DataError: there is no training, or DVC's stages are not up to date.
        MetricError: the rule is ``best N`` and there is no usable report of this run.
    """
    uid = read_uid(run_dir)
    if not uid:
        raise DataError(f"{run_dir} contains no training; give its folder with --run-dir")
    work = _work_folder(uid)
    names = [path.name for path in list_snapshots(run_dir)]
    digests = snapshot_digests(run_dir)
    ranking = _ranking(report, digests, names) if rule.kind == BEST or report.is_file() else []
    registered = registered_digests(local_database())
    needed = needed_snapshots(work or run_dir)
    needed |= {name for name in names if digests.get(name) in registered}
    removed = surplus(rule, names, ranking, needed)
    stages = _stages(run_dir) if removed else []
    if stages:
        _require_up_to_date(stages)
    return Pruning(run_dir, work, list(_items(removed, run_dir, work, digests)), stages)


def _work_folder(uid: str) -> Path | None:
    folders = (described.parent for described in state_root().glob(f"*/run/{RUN}"))
    return next((folder for folder in folders if read_uid(folder) == uid), None)


def _ranking(report: Path, digests: Mapping[str, str], names: list[str]) -> list[str]:
    """The measured snapshots, the best first; one that was measured with other bytes is none."""
    best = best_snapshot(report)
    report, content = read_report(report)
    rows = [row for row in content["results"] if row["metric"] == best.metric]
    rows = [row for row in rows if digests.get(row["snapshot"]) == row["network_sha256"]]
    if best.snapshot not in {row["snapshot"] for row in rows}:
        raise DataError(f"{report} is of another training; run stages/evaluate.py first")
    sign = -1 if rows[0]["higher_is_better"] else 1
    rows.sort(key=lambda row: (sign * row["value"], row["kimg"]))
    return [row["snapshot"] for row in rows if row["snapshot"] in names]


def _items(
    names: list[str], run_dir: Path, work: Path | None, digests: Mapping[str, str]
) -> Iterator[Removable]:
    for name in names:
        yield Removable(GROUP, run_dir / name, "not kept")
        if work is not None and (work / name).is_file():
            yield Removable(GROUP, work / name, "not kept", training_lock(work.parent))
        for path in artifacts_with_digest(local_database(), digests.get(name, "")):
            yield Removable(GROUP, path, "not kept")


def _stages(run_dir: Path) -> list[str]:
    """The stages in dvc.lock that make or read the output folder."""
    root = project_root()
    lock = root / "dvc.lock"
    if not lock.is_file() or not run_dir.resolve().is_relative_to(root):
        return []
    path = run_dir.resolve().relative_to(root).as_posix()
    stages: Mapping[str, Any] = load_yaml(lock.read_text(encoding="utf-8"), str(lock))["stages"]
    return [
        name
        for name, stage in stages.items()
        if any(each["path"] == path for each in [*stage.get("outs", []), *stage.get("deps", [])])
    ]


def _require_up_to_date(stages: list[str]) -> None:
    """Check that recording these stages as they are hides no change."""
    if changed := json.loads(_dvc("status", "--json", *stages) or "{}"):
        raise ConfigError(
            f"`dvc status` says that {', '.join(map(cut, changed))} changed; run `dvc repro` "
            "first, so that DVC can be told of the removal; nothing was removed"
        )


def _dvc(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project_root(),
        capture_output=True,
        text=True,
        timeout=_DVC_SEC,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise DataError(f"`dvc {' '.join(arguments)}` failed: {cut(lines[-1])}")
    return done.stdout
