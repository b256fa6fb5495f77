"""What git knows of a folder: commit, changes that are not committed, where it was cloned from."""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sg3flow.addresses import without_secrets
from sg3flow.git import GitError, git, git_or_empty, git_text
from sg3flow.provenance.files import CODE, PROJECT_FILES

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
