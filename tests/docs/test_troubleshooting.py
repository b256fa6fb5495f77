"""docs/troubleshooting.md quotes messages that the code prints."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTED = re.compile(r"^\| `(.+)` \| ", re.MULTILINE)


@cache
def _printed() -> str:
    """The text of all sources, with strings that are split over lines joined."""
    folders = (ROOT / "src", ROOT / "stages")
    sources = (p.read_text(encoding="utf-8") for f in folders for p in sorted(f.rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))


def _quotes() -> list[str]:
    return QUOTED.findall((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("quote", _quotes())
def test_the_code_says_it(quote):
    printed = _printed()
    pieces = [piece.strip(" '") for piece in quote.split("…")]
    for piece in pieces:
        assert piece in printed, f"nothing prints '{piece}'"
    assert max(map(len, pieces)) > 10


def test_there_are_quotes():
    assert len(_quotes()) > 20
