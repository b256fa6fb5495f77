"""The shell commands in README and docs.

A test runs each block that opens with ```sh. Words after `sh` say why a block is not run: it needs
a `gpu`, the `network` (packages, downloads, other machines) or a container `engine`, or it takes
`long` and has a separate test. A block marked `server` runs in the background until the end of its
page. The blocks of a page run in order, in one folder.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_HERE = {"gpu", "network", "engine", "long"}
_BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BREAKS = re.compile(r"[|&;\n]+")


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands."""

    page: Path
    line: int
    marks: frozenset[str]
    text: str

    @property
    def runs_here(self) -> bool:
        return not self.marks & NOT_HERE

    @property
    def is_server(self) -> bool:
        return "server" in self.marks

    def commands(self) -> list[list[str]]:
        """The words of each command, without the environment variables before it."""
        text = re.sub(r"(^|\s)#\s[^\"\n]*$", "", self.text.replace("\\\n", " "), flags=re.MULTILINE)
        split = [_without_settings(words) for words in _split(text)]
        return [words for words in split if words]


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, m.start()) + 1, frozenset(m[1].split()), m[2])
        for m in _BLOCK.finditer(text)
    ]
    unknown = {mark for block in found for mark in block.marks} - NOT_HERE - {"server"}
    assert not unknown, f"{page.name}: unknown marks {unknown}"
    return found


def _split(text: str) -> list[list[str]]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if _BREAKS.fullmatch(word):
            found.append([])
        else:
            found[-1].append(word)
    return found


def _without_settings(words: list[str]) -> list[str]:
    settings = re.compile(r"[A-Za-z_]\w*=")
    start = next((i for i, word in enumerate(words) if not settings.match(word)), len(words))
    return words[start:]


@pytest.fixture
def blocks(page: Path) -> list[Block]:
    return read_blocks(page)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=lambda page: page.name)
    if "block" in metafunc.fixturenames:
        found = [block for page in PAGES for block in read_blocks(page)]
        metafunc.parametrize("block", found, ids=lambda b: f"{b.page.name}:{b.line}")
