"""Which code runs: version, commit, and changes that nobody committed."""

import getpass
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import sg3flow
from sg3flow.git import GitError
from sg3flow.provenance.git_tree import Changes, GitTree, git_tree

MOST_DIFF_BYTES = 5_000_000
_MOST_NAMES = 50


def code_folder() -> Path:
    """The project's folder that the running code comes from.

    That of the package, if git has it: with an editable installation it is what runs, wherever the
    stage's script lies. Of an installed package: the folder of the script, or else this one.
    """
    package = Path(sg3flow.__file__).resolve()
    script = Path(sys.argv[0]).resolve()
    with suppress(GitError):  # `code_facts` tells
        if git_tree(package.parent, tracked=package) is not None:
            return package.parents[2]
    return script.parents[1] if script.parent.name == "stages" else Path.cwd()


def user_name() -> str:
    """Who runs this, as far as the system says."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def code_facts() -> tuple[dict[str, Any], bytes]:
    """Version, commit and state of the code that runs, and its uncommitted changes.

    ``git_error`` says why git did not answer; there then is no commit.
    """
    folder = code_folder()
    package = Path(sg3flow.__file__).resolve()
    facts: dict[str, Any] = {
        "version": sg3flow.__version__,
        "package_in_tree": folder / "src" / "sg3flow" == package.parent,
    }
    unknown = facts | {"commit": "", "dirty": False}
    try:
        tree = git_tree(folder)
        if tree is None:
            return unknown, b""
        changes = tree.changes()
        return facts | _tree_facts(tree) | {"diff": _diff_facts(changes)}, changes.diff
    except GitError as error:
        return unknown | {"git_error": str(error)}, b""


def _tree_facts(tree: GitTree) -> dict[str, Any]:
    changed, untracked = tree.changed(), tree.untracked("src", "stages")
    return {
        "commit": tree.commit,
        "branch": tree.branch(),
        "remote": tree.remote(),
        "prefix": tree.prefix,
        "dirty": bool(changed),
        "changed": changed[:_MOST_NAMES],
        "untracked": untracked[:_MOST_NAMES],
    }


def _diff_facts(changes: Changes) -> dict[str, Any]:
    return {
        "bytes": len(changes.diff),
        "sha256": changes.sha256,
        "complete": len(changes.diff) <= MOST_DIFF_BYTES,
        "withheld": changes.withheld[:_MOST_NAMES],
    }
