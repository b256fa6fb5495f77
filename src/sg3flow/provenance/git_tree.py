"""What git knows of a folder: commit, changes that are not committed, where it was cloned from."""

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sg3flow.addresses import without_secrets
from sg3flow.provenance.files import PROJECT_FILES

_TIMEOUT_SEC = 60

# A tracked file may hold a secret all the same; a change to one of these is never copied.
_SECRETS = (
    "**/.env*",
    "**/*.pem",
    "**/*.key",
    "**/id_rsa*",
    "**/id_ed25519*",
    "**/.netrc",
    "**/.pypirc",
    "**/*secret*",
    "**/*credential*",
    "**/*password*",
    "**/.dvc/config*",
)
_PASSWORD = re.compile(rb"://[^/\s:@\"']+:[^/\s@\"']+@")  # in an address


@dataclass(frozen=True)
class GitTree:
    """A folder in a git repository with at least one commit.

    Attributes:
        top: the repository's folder.
        prefix: the folder, as seen from there; empty: it is the same.
        commit: of HEAD.
    """

    top: Path
    prefix: str
    commit: str

    def branch(self) -> str:
        """The branch that is checked out; empty: none is."""
        return run_git(self.top, "symbolic-ref", "--short", "-q", "HEAD").strip()

    def remote(self) -> str:
        """Where it was cloned from, without secrets; empty: nowhere."""
        name = run_git(self.top, "remote").split("\n")[0].strip()
        url = run_git(self.top, "remote", "get-url", name).strip() if name else ""
        return without_secrets(url)

    def changed(self) -> list[str]:
        """Tracked files that are not as committed, staged or not."""
        return run_git(self.top, "diff", "HEAD", "--name-only", "-z").split("\0")[:-1]

    def untracked(self, *folders: str) -> list[str]:
        """Files below ``folders`` that git neither has nor ignores: they are in no diff."""
        listed = ("ls-files", "--others", "--exclude-standard", "-z", "--", *folders)
        return run_git(self.top / self.prefix, *listed).split("\0")[:-1]

    def changes(self) -> "Changes":
        """All changes of tracked files since the commit, but for those that may hold secrets.

        The settings and the lock file of the pipeline do not count: they are recorded whole.
        """
        left_out = [*_SECRETS, *(f"**/{name}" for name in PROJECT_FILES)]
        diff = git_bytes(self.top, *_DIFF, "--", ".", *(f":(exclude,glob){p}" for p in left_out))
        sections = re.split(rb"(?m)^(?=diff --git )", diff)
        kept = [section for section in sections if not _PASSWORD.search(section)]
        shown = ("diff", "HEAD", "--name-only", "-z", "--", *(f":(glob){p}" for p in _SECRETS))
        withheld = run_git(self.top, *shown).split("\0")[:-1]
        withheld += [_name(section) for section in sections if _PASSWORD.search(section)]
        return Changes(b"".join(kept), withheld)


@dataclass(frozen=True)
class Changes:
    """Changes since a commit.

    Attributes:
        diff: as ``git apply`` takes them; empty: none.
        withheld: changed files that are not in it.
    """

    diff: bytes
    withheld: list[str]

    @property
    def sha256(self) -> str:
        """Of the diff; empty for none."""
        return diff_digest(self.diff)


def _name(section: bytes) -> str:
    """The file that a section of a diff is about."""
    return section.splitlines()[0].partition(b" b/")[2].decode(errors="replace")


# Whatever the user's own settings are, the same change gives the same bytes.
_DIFF = (
    *("-c", "core.quotePath=true", "-c", "diff.mnemonicPrefix=false", "-c", "diff.noprefix=false"),
    *("-c", "diff.algorithm=myers", "-c", "diff.renames=false", "-c", "diff.context=3"),
    *("diff", "HEAD", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--ignore-submodules=all",),
)


def git_tree(folder: Path, tracked: Path | None = None) -> GitTree | None:
    """The git tree that holds ``folder``, or None where there is none, or no commit, or no git.

    Args:
        tracked: a file that git must have, or else the folder only lies inside the repository.
    """
    if not folder.is_dir():
        return None
    answer = run_git(folder, "rev-parse", "--show-toplevel", "HEAD").split("\n")
    if len(answer) < 2 or not answer[1]:
        return None
    if tracked is not None and not run_git(folder, "ls-files", "--", str(tracked)):
        return None
    prefix = run_git(folder, "rev-parse", "--show-prefix").strip().rstrip("/")
    return GitTree(Path(answer[0]), prefix, answer[1])


def diff_digest(diff: bytes) -> str:
    """SHA-256 of a diff; empty for no change."""
    return hashlib.sha256(diff).hexdigest() if diff else ""


def run_git(folder: Path, *arguments: str) -> str:
    """What git answers in a folder; empty where it fails."""
    return git_bytes(folder, *arguments).decode(errors="replace")


def git_bytes(folder: Path, *arguments: str) -> bytes:
    """What git answers in a folder, as bytes; empty where it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, env=git_environment(), timeout=_TIMEOUT_SEC, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout


def git_environment() -> dict[str, str]:
    """The environment without what names another repository (in a git hook, say)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Reading must not take the index lock from somebody who commits at this moment.
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
