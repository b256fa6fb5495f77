"""Runs every `check_*.py` of this folder, and writes what they found.

    make peers

writes `benchmarks/peers/results.json`, the table in docs/metrics.md, and prints the table. With
names it runs only these checks (`run.py features images`), keeps the rows of the others, and writes
the same files.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from table import fill_in, format_rows

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
RESULTS = _HERE / "results.json"
_DOCUMENT = _ROOT / "docs" / "metrics.md"
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow")


def main() -> None:
    """Run the checks that the command line names, or all."""
    checks = {path.stem.removeprefix("check_"): path for path in sorted(_HERE.glob("check_*.py"))}
    chosen = sys.argv[1:] or list(checks)
    if unknown := [name for name in chosen if name not in checks]:
        sys.exit(f"error: no check '{unknown[0]}'; there are {', '.join(checks)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"checks": {}}
    kept = {name: rows for name, rows in results["checks"].items() if name in checks}
    failed = []
    for name in chosen:
        rows, worked = run_check(checks[name])
        kept[name] = rows
        failed += [] if worked else [name]
    content = {"environment": environment(), "checks": {name: kept[name] for name in sorted(kept)}}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    text = format_rows(content)
    _DOCUMENT.write_text(fill_in(_DOCUMENT.read_text(), text))
    print(text)
    if failed:
        sys.exit(f"error: not equal: {', '.join(failed)}; see above")


def run_check(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a check, and whether they are all within their limits."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        environ = os.environ | {"PYTHONPATH": str(_ROOT / "src"), "SG3FLOW_CACHE": folder}
        done = subprocess.run([sys.executable, path, out], env=environ, cwd=_ROOT)
        if not out.exists():
            sys.exit(f"error: {path.name} ended without rows; see above")
        return json.loads(out.read_text()), done.returncode == 0


def environment() -> dict[str, str]:
    """Versions of what both sides compute with."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


if __name__ == "__main__":
    main()
