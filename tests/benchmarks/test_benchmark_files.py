"""Every benchmark still fits the package: it can be imported."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
# A process of its own: some have the names of public packages, such as `training`.
_SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    assert importlib.import_module(name).__doc__, name
"""


def test_benchmarks_can_be_imported():
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *names],
        capture_output=True,
        text=True,
        cwd=FOLDER,
        env={"PYTHONPATH": ":".join([str(FOLDER), *sys.path]), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "metrics_speed" in names
