"""Bodies made to take long: reading them takes time in proportion to their length."""

import subprocess
import sys

import pytest

# In a process of its own: what holds the interpreter's lock cannot be stopped from within.
_CHECK = """
import sys
from sg3flow.serving.http_body import HTTPError, checked_body
try:
    checked_body(sys.stdin.buffer.read())
except HTTPError as error:
    print(error.status, error)
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b'"' + b'\\"' * 500_000, "no valid JSON: Unterminated string", id="quotes"),
        pytest.param(b'{"seed": "' + b"\\" * 1_000_001, "no valid JSON", id="backslashes"),
        pytest.param(
            b"{" + b"".join(b'"%d":1,' % i for i in range(100_000)) + b'"99999":1}',
            "the key '99999' stands twice",
            id="doubled key",
        ),
        pytest.param(b"[{" * 500_000, "nested more than 8 deep", id="brackets"),
    ],
)
def test_a_large_body_is_refused_without_delay(body, words):
    done = subprocess.run(
        [sys.executable, "-c", _CHECK], input=body, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.decode().startswith("400 ") and words in done.stdout.decode()
