"""Where a training keeps its files, and where it shows them.

DVC removes a stage's outputs before the stage runs, so the files live in a work folder below
``state/`` and every finished one is published to the output folder: a hard link where it never
changes, a copy where it grows.
"""

import fcntl
import json
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sg3flow.errors import DataError
from sg3flow.files import copy_file, write_json, write_text
from sg3flow.reporting import read_whole_lines
from sg3flow.training.state import StateFolder

RUN_FORMAT = "sg3flow-run-1"


@dataclass
class RunFolder:
    """The folders of one training.

    Attributes:
        work: files of the run, kept until the training is done and longer.
        states: resumable states.
        out: where a person or the next stage looks; chosen once the work folder is locked.
    """

    work: Path
    states: StateFolder
    _lock: IO[str]
    out: Path = Path()

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

    def publish_all(self, final_nimg: int) -> None:
        """Show everything that starts of this run have made up to ``final_nimg`` images."""
        self.publish("run.json")  # first: it tells whose folder this is
        for path in sorted(self.work.iterdir()):
            kimg = _kimg_of(path.name)
            if kimg is not None and kimg > final_nimg // 1000:
                (self.out / path.name).unlink(missing_ok=True)
            # How far MLflow has been told is of no use to anyone but the mirror.
            elif not path.name.startswith(".") and path.name != "mirror.json":
                self.publish(path.name)
        for path in self.out.glob("*.jsonl"):
            _cut(path, final_nimg)

    def close(self) -> None:
        """Let others use the work folder."""
        self._lock.close()


def open_run_folder(state_root: Path, key: str, final_nimg: int) -> RunFolder:
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
    work, states = base / "run", StateFolder(base / "states")
    work.mkdir(parents=True, exist_ok=True)
    lock = (base / ".lock").open("w")
    try:
        # lockf, not flock: processes that read pictures for a killed training inherit the latter,
        # and hold it until they notice.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DataError(
            f"another process is training in {base}; wait for it, or end it and run again"
        ) from None
    for left in (*work.glob(".*.tmp"), *states.folder.glob(".*.tmp")):
        left.unlink()  # of a start that was killed while it wrote
    return RunFolder(work, states, lock)


def _kimg_of(name: str) -> int | None:
    """The thousands of images in the name of a snapshot or sample grid."""
    match = re.fullmatch(r"(?:network-snapshot-|fakes)(\d{6,})\.(?:pkl|png)", name)
    return int(match[1]) if match else None


def _cut(path: Path, final_nimg: int) -> None:
    """Drop the lines of a longer run."""
    rows = read_whole_lines(path)
    kept = [row for row in rows if row["nimg"] <= final_nimg]
    if len(kept) < len(rows):
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def check_out(out: Path, key: str) -> None:
    """Make sure the output folder is empty, or shows this very training.

    Raises:
        DataError: it holds something else; nothing is touched.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; a training writes a folder: choose another --run-dir")
    run = read_run(out)
    if run is None and any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(f"{out} holds other files and no run.json; choose an empty folder")
    if run is not None and run["fingerprint"] != key:
        raise DataError(
            f"{out} shows another training ({run['name']}; settings or data differ); choose "
            "another folder or remove that one"
        )


def numbered_out(outdir: Path, name: str, key: str) -> Path:
    """``<outdir>/<NNNNN>-<name>``: that of the same training, or else the next number, taken."""
    while True:
        number = 0
        for path in sorted(outdir.iterdir()) if outdir.is_dir() else []:
            run = read_run(path)
            if run is not None and run["fingerprint"] == key:
                return path
            match = re.match(r"(\d{5,})-", path.name)
            number = max(number, int(match[1]) + 1 if match else 0)
        out = outdir / f"{number:05d}-{name}"
        try:
            out.mkdir(parents=True)
        except FileExistsError:  # another start was faster: the next number then
            continue
        return out


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's run.json, or None where there is none of ours."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and content.get("format") == RUN_FORMAT
    return content if is_ours else None


def read_uid(folder: Path) -> str:
    """The identity of the run that a folder shows; empty where it shows none."""
    run = read_run(folder)
    return str(run["uid"]) if run else ""


def describe_run(work: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Write run.json; the run's identity, once given, stays."""
    known = read_run(work)
    uid = known["uid"] if known else uuid.uuid4().hex
    described = {"format": RUN_FORMAT, "uid": uid} | content
    if described != known:
        write_json(work / "run.json", described)
    return described
