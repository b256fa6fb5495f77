"""Bodies made to take long: reading them takes time in proportion to their length."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.medium

# In a process of its own: what holds the interpreter's lock cannot be stopped from within.
_CHECK = """
import sys
from pathlib import Path
from sg3flow.serving.http_body import HTTPError, checked_body

for path in map(Path, sys.argv[1:]):
    print(path.name, flush=True)
    try:
        checked_body(path.read_bytes())
    except HTTPError as error:
        path.write_text(f"{error.status} {error}")
"""
_BODIES = {
    "quotes": (b'"' + b'\\"' * 500_000, "not valid JSON: Unterminated string"),
    "backslashes": (b'{"seed": "' + b"\\" * 1_000_001, "not valid JSON"),
    "doubled key": (
        b"{" + b"".join(b'"%d":1,' % i for i in range(100_000)) + b'"99999":1}',
        "the key '99999' occurs twice",
    ),
    "brackets": (b"[{" * 500_000, "nested more than 8 deep"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Path:
    """What is said of each body, in a file of its name; one that hangs is the last one printed."""
    folder = tmp_path_factory.mktemp("bodies")
    paths = [folder / name for name in _BODIES]
    for path in paths:
        path.write_bytes(_BODIES[path.name][0])
    subprocess.run([sys.executable, "-c", _CHECK, *paths], timeout=120, check=True)
    return folder


@pytest.mark.parametrize("name", _BODIES)
def test_a_large_body_is_refused_without_delay(answers, name):
    said = (answers / name).read_bytes()
    assert said.startswith(b"400 ") and _BODIES[name][1].encode() in said
