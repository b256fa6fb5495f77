"""Run the cells of a notebook and keep their outputs, without paths of this machine.

    python notebooks/execute.py notebooks/tutorial.ipynb

Needs the packages nbclient and ipykernel (`pip install '.[dev]'`). The notebook runs in a temporary
folder; the file is replaced only if all cells run.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TIMEOUT_SEC = 1800  # of a cell
# How a run of this notebook sees the machine; tests set some of them for themselves.
_DROPPED = ("SG3FLOW_TRACKING", "SG3FLOW_STATE_DIR", "MLFLOW_TRACKING_URI", "DVC_ROOT")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def execute(path: Path, folder: Path, environment: dict[str, str] | None = None) -> Any:
    """The notebook after a run of all its cells in ``folder``; the first error ends it."""
    notebook = nbformat.read(path, as_version=4)
    inherited = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    client = NotebookClient(
        notebook, timeout=TIMEOUT_SEC, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=inherited | {"MLFLOW_DISABLE_TELEMETRY": "true"} | (environment or {}))
    return notebook


def strip(notebook: Any, folder: Path) -> None:
    """Remove progress, what differs between machines, and all but one form of each picture."""
    places = {str(folder.resolve()): "", str(folder): "", str(Path.home()): "~", sys.prefix: "env"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/jpeg" in data:
                data.pop("image/png", None)
            for holder, key in ((output, "text"), (data, "text/plain"), (data, "text/html")):
                if key in holder:
                    holder[key] = _without_places(holder[key], places)


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs without standard error, which holds progress; what a cell prints is one output."""
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def _without_places(text: str, places: dict[str, str]) -> str:
    text = _ESCAPES.sub("", text)
    for place, word in places.items():
        text = text.replace(f"{place}/", f"{word}/" if word else "").replace(place, word or ".")
    return text


def main() -> None:
    """The command of this script."""
    parser = argparse.ArgumentParser(description="Run a notebook and keep its outputs.")
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    with tempfile.TemporaryDirectory() as scratch:
        notebook = execute(path, Path(scratch))
        strip(notebook, Path(scratch))
    nbformat.write(notebook, path)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
