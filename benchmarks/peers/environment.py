"""Makes `build/peers`: an environment of its own for the tools of `requirements.txt`.

    python benchmarks/peers/environment.py

They need torchvision, whose wheels for Linux do not load beside a CPU build of torch, so they
cannot be part of sg3flow's own environment. Before anything is installed, pip says what it would
install: a CUDA build of torch (gigabytes) is refused. `TORCH_INDEX`, as in the Dockerfile, names an
index with CPU builds.
"""

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

FOLDER = Path("build/peers")
_REQUIREMENTS = Path(__file__).parent / "requirements.txt"
_OF_CUDA = ("nvidia-", "cuda-", "triton")


def make_environment(folder: Path) -> Path:
    """Create the environment, or bring it up to date; returns its Python."""
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    wanted = _REQUIREMENTS.read_text()
    if python.exists() and done.exists() and done.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    refuse_cuda(planned_packages(python))
    _pip(python, "install", "--quiet")
    done.write_text(wanted)
    return python


def planned_packages(python: Path) -> list[str]:
    """Names of what pip would install, without installing it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip(python, "install", "--quiet", "--dry-run", "--report", str(report))
        plan = json.loads(report.read_text())
    return [item["metadata"]["name"].lower() for item in plan["install"]]


def refuse_cuda(names: list[str]) -> None:
    """End with an error if packages of CUDA are among the names."""
    found = [name for name in names if name.startswith(_OF_CUDA)]
    if found:
        sys.exit(
            f"error: pip would install a CUDA build of torch ({', '.join(sorted(found)[:3])}…); "
            "set TORCH_INDEX to PyTorch's index of CPU builds, as the Dockerfile does"
        )


def _pip(python: Path, *arguments: str) -> None:
    index = os.environ.get("TORCH_INDEX", "")
    extra = ["--extra-index-url", index] if index else []
    command = [python, "-m", "pip", *arguments, *extra, "--requirement", _REQUIREMENTS]
    if subprocess.run(command).returncode != 0:
        sys.exit("error: pip cannot install the peers; its message is above")


if __name__ == "__main__":
    print(make_environment(FOLDER))
