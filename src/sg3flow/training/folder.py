"""Where a training keeps its files, and where it shows them.

DVC removes a stage's outputs before the stage runs, so the files live in a work folder below
``state/`` and every finished one is published to the output folder: a hard link where it never
changes, a copy where it grows.
"""

import fcntl
import json
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sg3flow.errors import DataError
from sg3flow.files import copy_file, write_json
from sg3flow.training.state import StateFolder

RUN_FORMAT = "sg3flow-run-1"


@dataclass
class RunFolder:
    """The folders of one training.

    Attributes:
        work: files of the run, kept until the training is done and longer.
        states: resumable states.
        out: where a person or the next stage looks.
    """

    work: Path
    states: StateFolder
    out: Path
    _lock: IO[str]

    def publish(self, name: str) -> Path:
        """Show a finished file of the work folder in the output folder."""
        source, target = self.work / name, self.out / name
        self.out.mkdir(parents=True, exist_ok=True)
        if name.endswith((".jsonl", ".json")):
            copy_file(source, target)
            return target
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            copy_file(source, target)
        return target

    def publish_all(self, up_to_kimg: int) -> None:
        """Show everything an earlier start of this run has made."""
        for path in sorted(self.work.iterdir()):
            kimg = re.search(r"(\d{6,})\.(?:pkl|png)$", path.name)
            is_later = kimg is not None and int(kimg[1]) > up_to_kimg
            # How far MLflow has been told is of no use to anyone but the mirror.
            if path.name.startswith(".") or path.name == "mirror.json" or is_later:
                continue
            self.publish(path.name)

    def close(self) -> None:
        """Let others use the work folder."""
        self._lock.close()


def open_run_folder(state_root: Path, key: str, final_nimg: int, out: Path) -> RunFolder:
    """Open the work folder of the training ``key``, and lock it.

    A state that is already past ``final_nimg`` images cannot give the shorter training's result,
    unless a snapshot was taken right there: the shorter one then gets a folder of its own, and the
    longer one's state is kept.

    Raises:
        DataError: another process is training there.
    """
    base = state_root / key
    past = StateFolder(base / "states").latest_nimg() > final_nimg
    if past and not (base / "run" / f"network-snapshot-{final_nimg // 1000:06d}.pkl").exists():
        base = state_root / f"{key}-{final_nimg}"
    work = base / "run"
    work.mkdir(parents=True, exist_ok=True)
    lock = (base / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DataError(
            f"another process is training in {base}; wait for it, or end it and run again"
        ) from None
    return RunFolder(work, StateFolder(base / "states"), out, lock)


def claim_out(out: Path, expected_key: str) -> None:
    """Make sure the output folder is empty, or holds a training of ours.

    Raises:
        DataError: it holds something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; a training writes a folder: choose another --run-dir")
    entries = [p for p in out.iterdir() if not p.name.startswith(".")]
    run = read_run(out)
    if entries and run is None:
        raise DataError(f"{out} holds other files and no run.json; choose an empty folder")
    if run is not None and run["fingerprint"] != expected_key:
        for path in entries:  # an earlier training with other settings: replaced as a whole
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def numbered_out(outdir: Path, name: str, key: str) -> Path:
    """``<outdir>/<NNNNN>-<name>``: that of the same training, or else the next number."""
    numbers = []
    for path in sorted(outdir.iterdir()) if outdir.is_dir() else []:
        match = re.match(r"(\d{5,})-", path.name)
        if match is None:
            continue
        numbers.append(int(match[1]))
        run = read_run(path)
        if run is not None and run["fingerprint"] == key:
            return path
    return outdir / f"{max(numbers, default=-1) + 1:05d}-{name}"


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's run.json, or None where there is none of ours."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and content.get("format") == RUN_FORMAT
    return content if is_ours else None


def describe_run(work: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write run.json; the run's identity, once given, stays."""
    known = read_run(work)
    uid = known["uid"] if known else uuid.uuid4().hex
    described = {"format": RUN_FORMAT, "uid": uid} | content
    if described != known:
        write_json(work / "run.json", described)
    return described
