"""A place of its own for a training that is made again: a git worktree at the recorded commit.

``reproductions/<id>/`` of the project holds the worktree ``tree``, the training's ``state`` and its
output ``run``. Nothing outside this folder is written.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sg3flow.errors import DataError
from sg3flow.files import copy_file, write_json
from sg3flow.git import GitError, git, git_or_empty
from sg3flow.provenance.files import PROJECT_FILES
from sg3flow.provenance.git_tree import GitTree, git_tree
from sg3flow.reproduction.record import Record

FORMAT = "sg3flow-reproduction-1"
REPORT = "reproduction.json"
_CHECKOUT_SEC = 600


@dataclass(frozen=True)
class Workplace:
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
            "SG3FLOW_STATE_DIR": str(self.state),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }


def prepare_workplace(record: Record, root: Path, *, anew: bool) -> Workplace:
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
    place = Workplace(folder, folder / "tree" / record.provenance["code"]["prefix"])
    if folder.exists():
        _check_ours(folder)
        if not anew and _is_as_made(place, record):
            return place
        if not anew:
            raise DataError(
                f"{place.tree} is not the recorded code (any more); see what was changed there, "
                "or give --anew to remove it and begin again"
            )
        remove_workplace(tree, folder)
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
        remove_workplace(tree, folder)
        raise
    return place


def remove_workplace(tree: GitTree, folder: Path) -> None:
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


def _is_as_made(place: Workplace, record: Record) -> bool:
    """Whether the worktree still is what was checked out for this record."""
    tree = git_tree(place.tree)
    if tree is None or tree.top != place.tree.resolve() or tree.commit != record.commit:
        return False
    return (read_report(place.folder) or {}).get("changes") == tree.changes().sha256


def _check_out(tree: GitTree, place: Workplace, record: Record, diff: bytes) -> None:
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
