"""Runs git without prompts and independent of the user's settings; reads commit and changes."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sg3flow.addresses import without_secrets
from sg3flow.errors import DataError
from sg3flow.settings import PROJECT_FILES

_TIMEOUT_SEC = 60


class GitError(DataError):
    """git failed; the message gives the reason.

    Attributes:
        refused: git ran and reported an error; else it is missing or too slow.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


def git(
    folder: Path, *arguments: str, content: bytes = b"", timeout_sec: float = _TIMEOUT_SEC
) -> bytes:
    """The output of git in a folder.

    Args:
        content: its standard input.

    Raises:
        GitError: it reports an error, takes too long, or is missing.
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
    """The output of git as text; errors as ``git``."""
    return git(folder, *arguments).decode(errors="replace")


def git_or_empty(folder: Path, *arguments: str) -> str:
    """The output of git; empty if it reports an error, for example that a name does not exist.

    Raises:
        GitError: it takes too long, or is missing.
    """
    try:
        return git_text(folder, *arguments)
    except GitError as error:
        if error.refused:
            return ""
        raise


def git_environment() -> dict[str, str]:
    """The environment without variables that name another repository, as in a git hook."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Reading must not take the index lock from a commit that runs now.
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


# A tracked file may have a secret; changes of these files are never recorded.
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
# A password or a token in a URL (`git@` is a user name without secret), and the parts of a query
# that grant access.
_SIGNATURES = (
    rb"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig"
    rb"|key-pair-id|(?:access_|auth_|private_)?token|api_?key|password"
)
_SECRET_ADDRESS = re.compile(
    rb"://(?!git@)[^/\s@\"']+@|\bnotify[\"']?\s*:\s*[\"']?https?://|(?i:://[^\s\"']*[?&](?:"
    + _SIGNATURES
    + rb")=[^\s&\"'])"
)


@dataclass(frozen=True)
class GitTree:
    """A folder in a git repository with at least one commit.

    Its methods raise GitError if git fails.

    Attributes:
        top: the folder of the repository.
        prefix: the folder relative to ``top``; empty: it is the same.
        commit: HEAD.
    """

    top: Path
    prefix: str
    commit: str

    def branch(self) -> str:
        """The current branch; empty: none."""
        return git_or_empty(self.top, "symbolic-ref", "--short", "-q", "HEAD").strip()

    def remote(self) -> str:
        """The URL of the first remote without secrets; empty: none."""
        name = git_or_empty(self.top, "remote").split("\n")[0].strip()
        url = git_or_empty(self.top, "remote", "get-url", name).strip() if name else ""
        return without_secrets(url)

    def changed(self, paths: Sequence[str]) -> list[str]:
        """Files with uncommitted changes, staged or not, among ``paths`` (git pathspecs)."""
        shown = ("diff", "HEAD", "--name-only", "-z", "--", *paths)
        return git_text(self.top / self.prefix, *shown).split("\0")[:-1]

    def untracked(self, *folders: str) -> list[str]:
        """Files below ``folders`` that git neither tracks nor ignores: no diff has them."""
        listed = ("ls-files", "--others", "--exclude-standard", "-z", "--", *folders)
        return git_text(self.top / self.prefix, *listed).split("\0")[:-1]

    def changes(self) -> "Changes":
        """All changes of tracked files since the commit, except those that may have secrets.

        The settings and the lock file of the pipeline are excluded: a run records them whole.
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
        diff: input of ``git apply``; empty: no changes.
        withheld: changed files that the diff does not have.
    """

    diff: bytes
    withheld: list[str]

    @property
    def sha256(self) -> str:
        """SHA-256 of the diff; empty: no changes."""
        return diff_digest(self.diff)


def _name(section: bytes) -> str:
    """The file of a section of a diff."""
    return section.splitlines()[0].partition(b" b/")[2].decode(errors="replace")


# The same change gives the same bytes with any settings of the user.
_DIFF = (
    *("-c", "core.quotePath=true", "-c", "diff.mnemonicPrefix=false", "-c", "diff.noprefix=false"),
    *("-c", "diff.algorithm=myers", "-c", "diff.renames=false", "-c", "diff.context=3"),
    *("diff", "HEAD", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--ignore-submodules=all",),
)


def git_tree(folder: Path, tracked: Path | None = None) -> GitTree | None:
    """The git tree of ``folder``; None: there is no repository, commit or git.

    Args:
        tracked: a file that git must track; else the folder is only inside a repository.

    Raises:
        GitError: there is a repository, and git fails.
    """
    if not folder.is_dir() or shutil.which("git") is None:
        return None
    try:
        top = git_text(folder, "rev-parse", "--show-toplevel").rstrip("\n")
    except GitError as error:
        # For a worktree without its repository the message is "not a git repository: PATH".
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
    """SHA-256 of a diff; empty: no changes."""
    return hashlib.sha256(diff).hexdigest() if diff else ""
