"""Folders of a training: resumable states, the work folder, and the output folder.

States are written atomically with a checksum; the last two are kept.
"""

import io
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sg3flow import distributed
from sg3flow.errors import DataError, DivergedError
from sg3flow.files import (
    atomic_write,
    copy_file,
    file_lock,
    link_or_copy,
    sha256_file,
    try_lock,
    write_json,
    write_text,
)
from sg3flow.ops.backend import backend_name
from sg3flow.output_checks import check_replaceable
from sg3flow.runs.loss_curves import write_losses
from sg3flow.runs.run_folder import (
    RUN,
    kimg_of,
    list_snapshots,
    read_run,
    read_uid,
    read_whole_lines,
    snapshot_kimg,
    snapshot_name,
)
from sg3flow.training.assembly import Parts

if TYPE_CHECKING:
    from filelock import BaseFileLock

_log = logging.getLogger(__name__)
_FORMAT = "sg3flow-state-1"
_KEPT = 2
_MOST_BYTES = 200  # of a folder's name; file systems allow 255


class StateFolder:
    """The saved states of one training, ``state-<nimg>.pt`` each with a checksum file.

    The checksum file is written last: a state without it is incomplete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Write a state and remove all others but the one before it.

        Later states are removed too: the training resumed before them because they were damaged.
        """
        nimg = state["nimg"]
        path = self.folder / f"state-{nimg:010d}.pt"
        with atomic_write(path) as stream:
            torch.save(state | {"format": _FORMAT}, stream)
        write_json(path.with_suffix(".json"), {"nimg": nimg, "sha256": sha256_file(path)})
        before = [p for p in self._newest_first() if p < path and p.with_suffix(".json").exists()]
        kept = {path, *before[: _KEPT - 1]}
        for old in set(self._newest_first()) - kept:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest intact state, or None; a warning names each damaged one that is skipped."""
        for path in self._newest_first():
            problem = _problem(path)
            if problem is None:
                loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                if loaded.get("format") == _FORMAT:
                    return loaded
                problem = f"its format is {loaded.get('format')}, not {_FORMAT}"
            _log.warning("%s is not used: %s; trying the state before it", path.name, problem)
        return None

    def latest_nimg(self) -> int:
        """Images seen by the newest complete state, 0 without one."""
        finished = (p for p in self._newest_first() if p.with_suffix(".json").exists())
        newest = next(finished, None)
        return int(newest.stem.removeprefix("state-")) if newest else 0

    def _newest_first(self) -> list[Path]:
        names = (p for p in self.folder.iterdir() if re.fullmatch(r"state-\d{10}\.pt", p.name))
        return sorted(names, reverse=True)


def _problem(path: Path) -> str | None:
    """Why a state cannot be used, or None if it can."""
    try:
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it is incomplete"
    return None if sha256_file(path) == expected else "its checksum does not match"


def capture_state(parts: Parts, nimg: int) -> dict[str, Any]:
    """Everything that decides the steps after ``nimg`` images; equal in all processes.

    A collective call.
    """
    return {
        "nimg": nimg,
        "ops": backend_name(parts.device),
        "networks": {
            name: network.state_dict()
            for name, network in (("G", parts.G), ("D", parts.D), ("G_ema", parts.G_ema))
        },
        "optimizers": {name: opt.state_dict() for name, opt in parts.optimizers.items()},
        "augment_p": parts.augment_pipe.p if parts.augment_pipe is not None else torch.zeros([]),
        "ada_moments": distributed.all_reduce_sum(parts.ada_moments),
        "pl_mean": parts.loss.pl_mean,
        "stats": parts.collector.state(),
    }


def broadcast_state(state: dict[str, Any]) -> dict[str, Any]:
    """The main process's state, in all processes."""
    if distributed.world_size() == 1:
        return state
    buffer = io.BytesIO()
    if distributed.is_main_process():
        torch.save(state, buffer)
    content = io.BytesIO(distributed.broadcast(buffer.getvalue()))
    loaded: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
    return loaded


def check_equal(parts: Parts) -> None:
    """Check that the networks of all processes are equal, bit for bit.

    Raises:
        DivergedError: they are not; the message names the tensor.
    """
    if distributed.world_size() == 1:
        return
    tensors = {
        (network, key): tensor
        for network in ("G", "D", "G_ema")
        for key, tensor in getattr(parts, network).state_dict().items()
    }
    sums = torch.stack([_checksum(tensor) for tensor in tensors.values()])
    low, negated_high = distributed.all_reduce_min(torch.stack([sums, -sums])).unbind()
    differing = (low != -negated_high).nonzero().flatten().tolist()
    if differing:
        network, key = list(tensors)[differing[0]]
        raise DivergedError(
            f"{network} differs between the processes: {key} and {len(differing) - 1} other "
            "tensors; run the same command again to resume from the last good state; if the error "
            "repeats, a device computes wrong results"
        )


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """A sum over the bits of a tensor: int64 []."""
    bits = tensor.detach().contiguous().flatten().view(torch.int32).to(torch.int64)
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    return (bits * (places % 65521)).sum()  # depends on the order, too


def restore(parts: Parts, state: dict[str, Any]) -> None:
    """Restore a captured state."""
    for name, network in (("G", parts.G), ("D", parts.D), ("G_ema", parts.G_ema)):
        network.load_state_dict(state["networks"][name])
    for name, optimizer in parts.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    if parts.augment_pipe is not None:
        parts.augment_pipe.p.copy_(state["augment_p"])
    # A sum over all processes: the main process starts from it, the others from 0.
    parts.ada_moments.copy_(
        state["ada_moments"] if distributed.is_main_process() else torch.zeros(2)
    )
    parts.loss.pl_mean.copy_(state["pl_mean"])
    parts.collector.load_state(state["stats"])


@dataclass
class RunFolder:
    """The folders of one training.

    Attributes:
        work: files of the run; they remain after the training.
        states: resumable states.
        out: the output folder for users and the next stage; set once the work folder is locked.
    """

    work: Path
    states: StateFolder
    _lock: "BaseFileLock"
    out: Path = Path()

    @property
    def root(self) -> Path:
        """The folder with the folders of all trainings."""
        return self.work.parents[1]

    @property
    def uid(self) -> str:
        """The id of the run, empty before its first start."""
        return read_uid(self.work)

    def publish(self, name: str) -> Path:
        """Link or copy a complete file of the work folder to the output folder."""
        source, target = self.work / name, self.out / name
        self.out.mkdir(parents=True, exist_ok=True)
        # The JSON lines grow in place.
        place = copy_file if name.endswith((".jsonl", ".json")) else link_or_copy
        place(source, target)
        return target

    def publish_all(self, final_nimg: int) -> None:
        """Publish every file of this run up to ``final_nimg`` images."""
        self.publish(RUN)  # first: it identifies the folder
        for path in sorted(self.work.iterdir()):
            kimg = kimg_of(path.name)
            if kimg is not None and kimg > final_nimg // 1000:
                (self.out / path.name).unlink(missing_ok=True)
            elif not path.name.startswith("."):
                self.publish(path.name)
        for path in self.out.glob("*.jsonl"):
            _cut(path, final_nimg)
        write_losses(self.out)

    def remove_snapshot(self, name: str) -> None:
        """Remove a snapshot from the output folder and then from the work folder.

        Raises:
            OSError: one of the folders cannot be changed.
        """
        (self.out / name).unlink(missing_ok=True)
        (self.work / name).unlink(missing_ok=True)

    def last_snapshot(self) -> Path | None:
        """The newest snapshot of trained networks, or None.

        Its path is in the work folder: DVC removes the output folder when the stage runs again.
        """
        newest = next(reversed(list_snapshots(self.work)), None)
        return newest if newest is not None and snapshot_kimg(newest.name) else None

    def close(self) -> None:
        """Release the lock of the work folder."""
        self._lock.release()


def open_run_folder(state_root: Path, key: str, final_nimg: int) -> RunFolder:
    """Open and lock the work folder of the training with fingerprint ``key``.

    A state beyond ``final_nimg`` images cannot give the result of a shorter training, unless a
    snapshot was taken exactly there. Then the shorter training gets its own folder, and the state
    of the longer one is kept.

    Raises:
        DataError: another process trains there, or the file system has no locks.
    """
    base = state_root / key
    past = StateFolder(base / "states").latest_nimg() > final_nimg
    if past and not (base / "run" / snapshot_name(final_nimg)).exists():
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
        left.unlink()  # of a process that was killed while writing
    return RunFolder(work, states, lock)


def _cut(path: Path, final_nimg: int) -> None:
    """Remove the lines of a longer run."""
    rows = read_whole_lines(path)
    kept = [row for row in rows if row["nimg"] <= final_nimg]
    if len(kept) < len(rows):
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def check_out(out: Path, key: str, uid: str) -> None:
    """Check that the output folder is empty or belongs to this run.

    Another run of the same training, for example a longer one, keeps its own folder: their files
    must not mix.

    Args:
        key: fingerprint of the training.
        uid: id of the run, as ``RunFolder.uid``.

    Raises:
        DataError: it contains something else; nothing is changed.
    """
    check_replaceable(out, _is_run_folder, "a training run", "--run-dir")
    run = read_run(out)
    if run is not None and run["uid"] != uid:
        what = "another training ({}; settings or data differ)"
        if run["fingerprint"] == key:
            what = "another run of this training ({}; another length, or its state was deleted)"
        raise DataError(
            f"{out} contains {what.format(run['name'])}; choose another folder or remove that one"
        )


def _is_run_folder(path: Path) -> bool:
    """Whether a run is shown there, or nothing but hidden files."""
    return read_run(path) is not None or all(each.name.startswith(".") for each in path.iterdir())


def as_folder_name(name: str) -> str:
    """A name with texts of the user as the name of one folder, whatever they contain."""
    return re.sub(r"[/\\\x00-\x1f\x7f]", "_", name).encode()[:_MOST_BYTES].decode(errors="ignore")


def numbered_out(outdir: Path, name: str, uid: str) -> Path:
    """``<outdir>/<NNNNN>-<name>``: the folder of this run, or a new one with the next number."""
    name = as_folder_name(name)
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
        except FileExistsError:  # another process has just taken this number
            continue
        return out
