"""What a run holds that is needed to make it again."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError
from sg3flow.files import copy_file, write_json
from sg3flow.git import GitError, GitTree, diff_digest, git, git_or_empty, git_tree
from sg3flow.runs.provenance import read_packages
from sg3flow.runs.run_folder import (
    DIFF,
    PROVENANCE,
    RUN,
    read_provenance,
    snapshot_digests,
    snapshot_name,
)
from sg3flow.settings import PROJECT_FILES, STATE_DIR

_SHOWN_ID = 12
_NEEDED = {
    "run": ("uid", "fingerprint"),
    "params": ("kimg", "batch"),
    "code": ("commit",),
    "data": ("path", "name", "digest", "num_images", "resolution"),
    "compute": ("device", "threads", "ops"),
}


@dataclass(frozen=True)
class Record:
    """One training, as its folder or the tracking server tells of it.

    Attributes:
        folder: where its files are: run.json, provenance.json and those beside them.
        run: content of run.json.
        provenance: content of provenance.json.
        digests: SHA-256 by file name of its snapshots.
        origin: where it was found, in words.
    """

    folder: Path
    run: Mapping[str, Any]
    provenance: Mapping[str, Any]
    digests: Mapping[str, str]
    origin: str

    @property
    def short_id(self) -> str:
        """The run's identity, short enough for a folder's name."""
        return str(self.run["uid"])[:_SHOWN_ID]

    @property
    def commit(self) -> str:
        """Commit of the code that trained."""
        return str(self.provenance["code"]["commit"])

    @property
    def data(self) -> Mapping[str, Any]:
        """What it was trained on."""
        found: Mapping[str, Any] = self.provenance["data"]
        return found

    @property
    def network(self) -> Mapping[str, Any]:
        """The network it started from, as ``network_info`` tells; empty: none, or not recorded."""
        found = self.provenance.get("network")
        return found if isinstance(found, Mapping) else {}

    @property
    def packages(self) -> dict[str, str]:
        """Packages that were installed."""
        return read_packages(self.folder)

    def snapshot_at(self, kimg: int) -> str:
        """File name of the snapshot that a training of ``kimg`` ends with."""
        batch = int(self.run["params"]["batch"])
        return snapshot_name(math.ceil(kimg * 1000 / batch) * batch)

    def diff(self) -> bytes:
        """Changes that were not committed; empty: none.

        Raises:
            DataError: they were not kept, or not as they were.
        """
        told = self.provenance["code"].get("diff", {})
        if not told.get("bytes"):
            return b""
        if not told["complete"]:
            raise DataError(
                f"the run had {told['bytes']} bytes of uncommitted changes, too many to be kept: "
                "it cannot be made again from its record"
            )
        try:
            content = (self.folder / DIFF).read_bytes()
        except OSError:
            content = b""
        if diff_digest(content) != told["sha256"]:
            raise DataError(
                f"{self.folder / DIFF} is missing or is not what the run recorded (SHA-256 "
                f"{told['sha256'][:12]}…); take the run's folder from the machine that trained"
            )
        return content


def read_record(folder: Path, digests: Mapping[str, str] | None = None, origin: str = "") -> Record:
    """Read the record in a folder.

    Args:
        digests: of the snapshots, if they are known from elsewhere than ``digests.jsonl``.
        origin: where the folder came from; empty: it is the run's own.

    Raises:
        DataError: it holds none, or one that is damaged.
    """
    origin = origin or str(folder)
    run = _read_json(folder / RUN, origin)
    provenance = read_provenance(folder)
    if provenance is None:
        raise DataError(
            f"{origin} has no readable {PROVENANCE}: it was trained by an earlier version, or not "
            "all of it was sent (`sg3flow sync` on the machine that trained)"
        )
    digests = snapshot_digests(folder) if digests is None else digests
    record = Record(folder, run, provenance, dict(digests), origin)
    if missing := _missing(record):
        raise DataError(f"the record of {origin} is damaged: it does not tell {missing[0]}")
    return record


def _missing(record: Record) -> list[str]:
    """What a record must tell and does not."""
    parts: dict[str, Any] = {"run": record.run}
    parts |= {name: record.provenance.get(name) for name in ("code", "data", "compute")}
    parts |= {"params": record.run.get("params")}
    return [
        f"{part}.{key}"
        for part, keys in _NEEDED.items()
        for key in keys
        if not isinstance(parts[part], Mapping) or key not in parts[part]
    ]


def _read_json(path: Path, origin: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{origin} has no readable {path.name}; it is no training of this project")
    return content


FORMAT = "sg3flow-reproduction-1"
REPORT = "reproduction.json"
_CHECKOUT_SEC = 600


@dataclass(frozen=True)
class Worktree:
    """Where one training is made again.

    Attributes:
        folder: all of it.
        project: the project's folder in the worktree.
    """

    folder: Path
    project: Path

    @property
    def tree(self) -> Path:
        """The worktree."""
        return self.folder / "tree"

    @property
    def state(self) -> Path:
        """State of the training: none but its own."""
        return self.folder / "state"

    @property
    def run(self) -> Path:
        """What comes out."""
        return self.folder / "run"

    @property
    def variables(self) -> dict[str, str]:
        """What keeps a stage that runs here out of the user's state and tracking server."""
        return {
            STATE_DIR.name: str(self.state),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }


def prepare_worktree(record: Record, root: Path, *, clean: bool) -> Worktree:
    """Make the workplace of a record, or find the one of an attempt that was interrupted.

    Args:
        root: folder of the project in whose repository the commit is looked for.
        anew: remove an earlier attempt first.

    Raises:
        DataError: no repository, no such commit there, or changes that do not apply; or what
            stands in the place is not an attempt of ours, or was edited since.
    """
    tree = _repository(record, root)
    folder = root / "reproductions" / record.short_id
    place = Worktree(folder, folder / "tree" / record.provenance["code"]["prefix"])
    if folder.exists():
        _check_ours(folder)
        if not clean and _is_as_made(place, record):
            return place
        if not clean:
            raise DataError(
                f"{place.tree} is not the recorded code (any more); see what was changed there, "
                "or give --anew to remove it and begin again"
            )
        remove_worktree(tree, folder)
    diff = record.diff()
    folder.mkdir(parents=True)
    made = {"format": FORMAT, "uid": record.run["uid"]}
    write_json(folder / REPORT, made)
    try:
        _check_out(tree, place, record, diff)
        checked_out = git_tree(place.tree)
        assert checked_out is not None
        write_json(folder / REPORT, made | {"changes": checked_out.changes().sha256})
    except BaseException:
        remove_worktree(tree, folder)
        raise
    return place


def remove_worktree(tree: GitTree, folder: Path) -> None:
    """Remove a workplace of ours, and git's note of its worktree."""
    shutil.rmtree(folder)
    git_or_empty(tree.top, "worktree", "prune")


def read_report(folder: Path) -> dict[str, Any] | None:
    """What stands in the workplace's reproduction.json; None: it is not ours."""
    try:
        content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    return content if is_ours else None


def _repository(record: Record, root: Path) -> GitTree:
    tree = git_tree(root)
    if tree is None:
        raise DataError(
            f"{root} is in no git repository with a commit; run this in a clone of the project"
        )
    if not record.commit:
        why = record.provenance["code"].get("git_error", "was trained outside git")
        raise DataError(f"{record.origin}: there is no commit to check out: {why}")
    if git_or_empty(tree.top, "cat-file", "-t", record.commit).strip() != "commit":
        remote = record.provenance["code"].get("remote")
        hint = f"it came from {remote}: " if remote else "where it was made, push it; here, "
        raise DataError(
            f"commit {record.commit[:12]} of {record.origin} is not in this repository; {hint}"
            "`git fetch` it (in a shallow clone, `git fetch --unshallow`) and run again"
        )
    return tree


def _check_ours(folder: Path) -> None:
    if read_report(folder) is None:
        raise DataError(f"{folder} exists and was not made by `sg3flow reproduce`; move it away")


def _is_as_made(place: Worktree, record: Record) -> bool:
    """Whether the worktree still is what was checked out for this record."""
    tree = git_tree(place.tree)
    if tree is None or tree.top != place.tree.resolve() or tree.commit != record.commit:
        return False
    return (read_report(place.folder) or {}).get("changes") == tree.changes().sha256


def _check_out(tree: GitTree, place: Worktree, record: Record, diff: bytes) -> None:
    # A hook of the user's (`dvc install` makes one) has no business in this tree.
    quiet = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")
    # --force: git may still know this place, of an attempt whose folder was removed by hand.
    add = ("worktree", "add", "--force", "--detach", str(place.tree), record.commit)
    added = _git(tree.top, *quiet, *add)
    if added:
        raise DataError(f"git cannot check out {record.commit[:12]} into {place.tree}: {added}")
    if diff:
        problem = _git(place.tree, "apply", "--whitespace=nowarn", "-", content=diff)
        if problem:
            raise DataError(
                f"the run's uncommitted changes do not apply to its commit {record.commit[:12]}: "
                f"{problem}"
            )
    for name in PROJECT_FILES:
        if (record.folder / name).is_file() and name in record.provenance.get("files", {}):
            copy_file(record.folder / name, place.project / name)


def _git(folder: Path, *arguments: str, content: bytes = b"") -> str:
    """Run git; what it complains of, in one line, empty if it did what was asked."""
    try:
        git(folder, *arguments, content=content, timeout_sec=_CHECKOUT_SEC)
    except GitError as error:
        return str(error)
    return ""
