"""Where a training keeps its files, and where it shows them.

DVC removes a stage's outputs before the stage runs, so the files live in a work folder below
``state/`` and every finished one is published to the output folder: a hard link where it never
changes, a copy where it grows.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock

from sg3flow.errors import DataError
from sg3flow.files import copy_file, file_lock, try_lock, write_text
from sg3flow.reporting import read_run, read_uid, read_whole_lines
from sg3flow.training.state import StateFolder


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
    _lock: BaseFileLock
    out: Path = Path()

    @property
    def root(self) -> Path:
        """Where the folders of all trainings are."""
        return self.work.parents[1]

    @property
    def uid(self) -> str:
        """The identity of the run, empty before its first start."""
        return read_uid(self.work)

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
            elif not path.name.startswith("."):
                self.publish(path.name)
        for path in self.out.glob("*.jsonl"):
            _cut(path, final_nimg)

    def last_snapshot(self) -> Path | None:
        """The newest snapshot, unless that is the one before the first step.

        In the work folder: DVC removes the output folder when the stage runs again.
        """
        newest = max(self.work.glob("network-snapshot-*.pkl"), default=None)
        return newest if newest is not None and _kimg_of(newest.name) else None

    def close(self) -> None:
        """Let others use the work folder."""
        self._lock.release()


def open_run_folder(state_root: Path, key: str, final_nimg: int) -> RunFolder:
    """Open the work folder of the training ``key``, and lock it.

    A state that is already past ``final_nimg`` images cannot give the shorter training's result,
    unless a snapshot was taken right there: the shorter one then gets a folder of its own, and the
    longer one's state is kept.

    Raises:
        DataError: another process is training there, or the disk has no locks.
    """
    base = state_root / key
    past = StateFolder(base / "states").latest_nimg() > final_nimg
    if past and not (base / "run" / f"network-snapshot-{final_nimg // 1000:06d}.pkl").exists():
        base = state_root / f"{key}-{final_nimg}"
    work, states = base / "run", StateFolder(base / "states")
    work.mkdir(parents=True, exist_ok=True)
    lock = file_lock(base / ".lock")
    try:
        is_ours = try_lock(lock)
    except OSError as error:
        raise DataError(
            f"{base} cannot be locked ({error.strerror}); set SG3FLOW_STATE_DIR to a folder on "
            "another disk"
        ) from None
    if not is_ours:
        raise DataError(
            f"another process is training in {base}; wait for it, or end it and run again"
        )
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


def check_out(out: Path, key: str, uid: str) -> None:
    """Make sure the output folder is empty, or shows this very run.

    Another run of the same training, a longer one say, keeps its own folder: mixed files would tell
    of neither.

    Args:
        key: fingerprint of the training.
        uid: identity of the run, as ``RunFolder.uid``.

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
    if run is not None and run["uid"] != uid:
        what = "another training ({}; settings or data differ)"
        if run["fingerprint"] == key:
            what = "another run of this training ({}; of another length, or its state is gone)"
        raise DataError(
            f"{out} shows {what.format(run['name'])}; choose another folder or remove that one"
        )


def numbered_out(outdir: Path, name: str, uid: str) -> Path:
    """``<outdir>/<NNNNN>-<name>``: that of the same run, or else the next number, taken."""
    while True:
        number = 0
        for path in sorted(outdir.iterdir()) if outdir.is_dir() else []:
            run = read_run(path)
            if run is not None and run["uid"] == uid:
                return path
            match = re.match(r"(\d{5,})-", path.name)
            number = max(number, int(match[1]) + 1 if match else 0)
        out = outdir / f"{number:05d}-{name}"
        try:
            out.mkdir(parents=True)
        except FileExistsError:  # another start was faster: the next number then
            continue
        return out
