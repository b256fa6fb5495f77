"""Runs git in one way: whatever the user's environment says, and without waiting for a person."""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sg3flow.addresses import without_secrets
from sg3flow.errors import DataError
from sg3flow.settings import CODE, PROJECT_FILES

_TIMEOUT_SEC = 60


class GitError(DataError):
    """git did not do what was asked; the message says why.

    Attributes:
        refused: whether it answered at all: there is a git, and it was not too slow.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


def git(
    folder: Path, *arguments: str, content: bytes = b"", timeout_sec: float = _TIMEOUT_SEC
) -> bytes:
    """What git answers in a folder.

    Args:
        content: what it reads from its standard input.

    Raises:
        GitError: it refuses, takes too long, or is not there.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            input=content,
            capture_output=True,
            env=git_environment(),
            timeout=timeout_sec,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} took longer than {timeout_sec:g} s") from None
    except (OSError, ValueError) as error:
        raise GitError(f"git cannot be run: {error}") from None
    if done.returncode != 0:
        words = " ".join(done.stderr.decode(errors="replace").split())[:300]
        raise GitError(words or f"git {arguments[0]} gave no reason", refused=True)
    return done.stdout


def git_text(folder: Path, *arguments: str) -> str:
    """What git answers, as text; errors as ``git``."""
    return git(folder, *arguments).decode(errors="replace")


def git_or_empty(folder: Path, *arguments: str) -> str:
    """What git answers; empty where it refuses, say because there is no such thing.

    Raises:
        GitError: it does not answer at all.
    """
    try:
        return git_text(folder, *arguments)
    except GitError as error:
        if error.refused:
            return ""
        raise


def git_environment() -> dict[str, str]:
    """The environment without what names another repository (in a git hook, say)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Reading must not take the index lock from somebody who commits at this moment.
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


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
# A password or a token in an address (`git@` alone is a user that everybody has), and the parts of
# a query that let anyone in who has them.
_SIGNATURES = (
    rb"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig"
    rb"|key-pair-id|(?:access_|auth_|private_)?token|api_?key|password"
)
_SECRET_ADDRESS = re.compile(
    rb"://(?!git@)[^/\s@\"']+@|(?i:://[^\s\"']*[?&](?:" + _SIGNATURES + rb")=[^\s&\"'])"
)


@dataclass(frozen=True)
class GitTree:
    """A folder in a git repository with at least one commit.

    Where git does not answer, what is asked of it raises GitError.

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
        return git_or_empty(self.top, "symbolic-ref", "--short", "-q", "HEAD").strip()

    def remote(self) -> str:
        """Where it was cloned from, without secrets; empty: nowhere."""
        name = git_or_empty(self.top, "remote").split("\n")[0].strip()
        url = git_or_empty(self.top, "remote", "get-url", name).strip() if name else ""
        return without_secrets(url)

    def changed(self) -> list[str]:
        """Files of the code that are not as committed, staged or not.

        Settings, results and notes do not make other code.
        """
        shown = ("diff", "HEAD", "--name-only", "-z", "--", *CODE)
        return git_text(self.top / self.prefix, *shown).split("\0")[:-1]

    def untracked(self, *folders: str) -> list[str]:
        """Files below ``folders`` that git neither has nor ignores: they are in no diff."""
        listed = ("ls-files", "--others", "--exclude-standard", "-z", "--", *folders)
        return git_text(self.top / self.prefix, *listed).split("\0")[:-1]

    def changes(self) -> "Changes":
        """All changes of tracked files since the commit, but for those that may hold secrets.

        The settings and the lock file of the pipeline do not count: they are recorded whole.
        """
        left_out = [*_SECRETS, *(f"**/{name}" for name in PROJECT_FILES)]
        diff = git(self.top, *_DIFF, "--", ".", *(f":(exclude,glob){p}" for p in left_out))
        sections = re.split(rb"(?m)^(?=diff --git )", diff)
        kept = [section for section in sections if not _SECRET_ADDRESS.search(section)]
        shown = ("diff", "HEAD", "--name-only", "-z", "--", *(f":(glob){p}" for p in _SECRETS))
        withheld = git_text(self.top, *shown).split("\0")[:-1]
        withheld += [_name(section) for section in sections if _SECRET_ADDRESS.search(section)]
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

    Raises:
        GitError: there is one, and git does not say what is asked.
    """
    if not folder.is_dir() or shutil.which("git") is None:
        return None
    try:
        top = git_text(folder, "rev-parse", "--show-toplevel").rstrip("\n")
    except GitError as error:
        # Of a worktree whose repository is gone it says "not a git repository: PATH".
        if "not a git repository (or any" in str(error):
            return None
        raise
    commit = git_or_empty(folder, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    if not commit:
        return None
    if tracked is not None and not git_text(folder, "ls-files", "--", str(tracked)):
        return None
    prefix = git_text(folder, "rev-parse", "--show-prefix").strip().rstrip("/")
    return GitTree(Path(top), prefix, commit)


def diff_digest(diff: bytes) -> str:
    """SHA-256 of a diff; empty for no change."""
    return hashlib.sha256(diff).hexdigest() if diff else ""
