"""The record of a training, and the git worktree in which it is reproduced."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sg3flow.errors import DataError
from sg3flow.files import copy_file, write_json
from sg3flow.git import GitError, GitTree, diff_digest, git, git_or_empty, git_tree
from sg3flow.output_checks import check_replaceable
from sg3flow.runs.run_folder import (
    DIFF,
    PROVENANCE,
    RUN,
    read_packages,
    read_provenance,
    snapshot_digests,
    snapshot_name,
)
from sg3flow.settings import PROJECT_FILES, STATE_DIR

FORMAT = "sg3flow-reproduction-1"
REPORT = "reproduction.json"
_CHECKOUT_SEC = 600
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
    """The record of one training, from its folder or from the tracking server.

    Attributes:
        folder: with run.json, provenance.json and the files beside them.
        run: content of run.json.
        provenance: content of provenance.json.
        digests: SHA-256 by file name of its snapshots.
        origin: where it was found, for messages.
    """

    folder: Path
    run: Mapping[str, Any]
    provenance: Mapping[str, Any]
    digests: Mapping[str, str]
    origin: str

    @property
    def short_id(self) -> str:
        """The start of the uid, for a folder name."""
        return str(self.run["uid"])[:_SHOWN_ID]

    @property
    def commit(self) -> str:
        """Commit of the code of the training."""
        return str(self.provenance["code"]["commit"])

    @property
    def installed(self) -> str:
        """Version of the installed package that trained; empty: the code of its folder did."""
        code = self.provenance["code"]
        return "" if code.get("package_in_tree", True) else str(code.get("version", ""))

    @property
    def code_words(self) -> str:
        """Where its code comes from, for messages."""
        return f"commit {self.commit[:12]}" if self.commit else f"sg3flow {self.installed}"

    @property
    def data(self) -> Mapping[str, Any]:
        """The packed set of the training."""
        found: Mapping[str, Any] = self.provenance["data"]
        return found

    @property
    def network(self) -> Mapping[str, Any]:
        """The network it started from, as ``network_info`` records it; empty: none, or unknown."""
        found = self.provenance.get("network")
        return found if isinstance(found, Mapping) else {}

    @property
    def conv_forms(self) -> list[dict[str, Any]]:
        """The form of each convolution, as a training on a GPU records them; empty: none."""
        found = self.provenance.get("conv_forms")
        layers = found.get("layers") if isinstance(found, Mapping) else None
        return layers if isinstance(layers, list) else []

    @property
    def packages(self) -> dict[str, str]:
        """The installed packages of the training."""
        return read_packages(self.folder)

    def snapshot_at(self, kimg: int) -> str:
        """File name of the last snapshot of a training of ``kimg``."""
        batch = int(self.run["params"]["batch"])
        return snapshot_name(math.ceil(kimg * 1000 / batch) * batch)

    def diff(self) -> bytes:
        """The uncommitted changes; empty: none.

        Raises:
            DataError: they are not in the record, or have changed.
        """
        recorded = self.provenance["code"].get("diff", {})
        if not recorded.get("bytes"):
            return b""
        if not recorded["complete"]:
            raise DataError(
                f"the run had {recorded['bytes']} bytes of uncommitted changes, too many to "
                "record: it cannot be reproduced"
            )
        try:
            content = (self.folder / DIFF).read_bytes()
        except OSError:
            content = b""
        if diff_digest(content) != recorded["sha256"]:
            raise DataError(
                f"{self.folder / DIFF} is missing or is not what the run recorded (SHA-256 "
                f"{recorded['sha256'][:12]}…); take the run's folder from the machine that trained"
            )
        return content


def read_record(folder: Path, digests: Mapping[str, str] | None = None, origin: str = "") -> Record:
    """Read the record in a folder.

    Args:
        digests: of the snapshots; None: read ``digests.jsonl``.
        origin: where the folder came from; empty: the folder itself.

    Raises:
        DataError: the record is missing or damaged.
    """
    origin = origin or str(folder)
    run = _read_json(folder / RUN, origin)
    provenance = read_provenance(folder)
    if provenance is None:
        raise DataError(
            f"{origin} has no readable {PROVENANCE}: it was trained by an earlier version, or is "
            "not sent completely (run `sg3flow sync` on the machine that trained)"
        )
    digests = snapshot_digests(folder) if digests is None else digests
    record = Record(folder, run, provenance, dict(digests), origin)
    if missing := _missing(record):
        raise DataError(f"the record of {origin} is damaged: it lacks {missing[0]}")
    if not _names_own_places(record):
        raise DataError(
            f"the record of {origin} is damaged: its run.uid or code.prefix leads out of a folder"
        )
    return record


def _names_own_places(record: Record) -> bool:
    """Whether the texts that become parts of paths stay below ``reproductions/``."""
    prefix = PurePosixPath(str(record.provenance["code"].get("prefix", "")))
    is_below = not prefix.is_absolute() and ".." not in prefix.parts
    return is_below and re.fullmatch(r"[\w-]+", record.short_id) is not None


def _missing(record: Record) -> list[str]:
    """The required values that a record lacks."""
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
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{origin} has no readable {path.name}; it is not a training")
    return content


@dataclass(frozen=True)
class Worktree:
    """The folder in which a training is reproduced.

    Attributes:
        folder: the whole folder.
        project: the project's folder in the worktree.
    """

    folder: Path
    project: Path

    @property
    def tree(self) -> Path:
        """The git worktree."""
        return self.folder / "tree"

    @property
    def state(self) -> Path:
        """State of the training, separate from the user's."""
        return self.folder / "state"

    @property
    def run(self) -> Path:
        """The run folder of the reproduction."""
        return self.folder / "run"

    @property
    def variables(self) -> dict[str, str]:
        """Variables that keep a stage here from the user's state and tracking server."""
        return {
            STATE_DIR.name: str(self.state),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }


def prepare_worktree(record: Record, root: Path, *, clean: bool) -> Worktree:
    """Make the worktree of a record, or return the one of an interrupted attempt.

    A run of an installed package outside git needs no commit: its settings are in the record. The
    worktree is then a plain folder.

    Args:
        root: folder of the project whose repository has the commit.
        clean: remove an earlier attempt first.

    Raises:
        DataError: there is no repository or commit, or the changes do not apply; or the folder
            exists and is not an attempt of ours, or was edited since.
    """
    tree = _repository(record, root) if record.commit or not record.installed else None
    folder = root / "reproductions" / record.short_id
    prefix = record.provenance["code"]["prefix"] if tree is not None else ""
    worktree = Worktree(folder, folder / "tree" / prefix)
    if folder.exists():
        check_replaceable(folder, _is_reproduction, "a reproduction")
        if not clean and _is_as_made(worktree, record):
            return worktree
        if not clean:
            raise DataError(
                f"{worktree.tree} is not the recorded code any more; check what was changed there, "
                "or give --clean to remove it and start over"
            )
        remove_worktree(tree, folder)
    diff = record.diff()
    folder.mkdir(parents=True)
    made = {"format": FORMAT, "uid": record.run["uid"]}
    write_json(folder / REPORT, made)
    try:
        if tree is None:
            _make_plain(worktree)
        else:
            _check_out(tree, worktree, record, diff)
            checked_out = git_tree(worktree.tree)
            assert checked_out is not None
            write_json(folder / REPORT, made | {"changes": checked_out.changes().sha256})
        _restore_files(worktree, record)
    except BaseException:
        remove_worktree(tree, folder)
        raise
    return worktree


def remove_worktree(tree: GitTree | None, folder: Path) -> None:
    """Remove a worktree of ours, also from git's list."""
    shutil.rmtree(folder)
    if tree is not None:
        git_or_empty(tree.top, "worktree", "prune")


def read_report(folder: Path) -> dict[str, Any] | None:
    """The content of reproduction.json in a worktree folder; None: the folder is not ours."""
    try:
        content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
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
        raise DataError(f"{record.origin}: no commit is recorded: {why}")
    if git_or_empty(tree.top, "cat-file", "-t", record.commit).strip() != "commit":
        remote = record.provenance["code"].get("remote")
        hint = f"it came from {remote}: " if remote else "push it where it was made; here, "
        raise DataError(
            f"commit {record.commit[:12]} of {record.origin} is not in this repository; {hint}"
            "`git fetch` it (in a shallow clone, `git fetch --unshallow`) and run again"
        )
    return tree


def _is_reproduction(folder: Path) -> bool:
    return read_report(folder) is not None


def _is_as_made(worktree: Worktree, record: Record) -> bool:
    """Whether the worktree is unchanged since it was checked out for this record."""
    if not record.commit:  # nothing of a plain folder is read
        return bool((read_report(worktree.folder) or {}).get("uid") == record.run["uid"])
    tree = git_tree(worktree.tree)
    if tree is None or tree.top != worktree.tree.resolve() or tree.commit != record.commit:
        return False
    return (read_report(worktree.folder) or {}).get("changes") == tree.changes().sha256


def _make_plain(worktree: Worktree) -> None:
    """Make a folder that counts as a project of its own, though it is inside the user's."""
    (worktree.project / ".dvc").mkdir(parents=True)


def _check_out(tree: GitTree, worktree: Worktree, record: Record, diff: bytes) -> None:
    # Without the hooks of the user, for example those of `dvc install`.
    quiet = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")
    # --force: git may still list this path, from an attempt whose folder was deleted.
    add = ("worktree", "add", "--force", "--detach", str(worktree.tree), record.commit)
    added = _git(tree.top, *quiet, *add)
    if added:
        raise DataError(f"git cannot check out {record.commit[:12]} into {worktree.tree}: {added}")
    if diff:
        problem = _git(worktree.tree, "apply", "--whitespace=nowarn", "-", content=diff)
        if problem:
            raise DataError(
                f"the run's uncommitted changes do not apply to its commit {record.commit[:12]}: "
                f"{problem}"
            )


def _restore_files(worktree: Worktree, record: Record) -> None:
    """Copy the recorded settings and lock file of the pipeline into the project."""
    for name in PROJECT_FILES:
        if (record.folder / name).is_file() and name in record.provenance.get("files", {}):
            copy_file(record.folder / name, worktree.project / name)


def _git(folder: Path, *arguments: str, content: bytes = b"") -> str:
    """Run git; returns its error in one line, empty: none."""
    try:
        git(folder, *arguments, content=content, timeout_sec=_CHECKOUT_SEC)
    except GitError as error:
        return str(error)
    return ""
