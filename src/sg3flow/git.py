"""Runs git in one way: whatever the user's environment says, and without waiting for a person."""

import os
import subprocess
from pathlib import Path

from sg3flow.errors import DataError

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
