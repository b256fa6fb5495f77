"""What the pipeline made, for a person at a terminal."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sg3flow.config import read_params
from sg3flow.errors import DataError
from sg3flow.project import project_root, state_root
from sg3flow.reporting import read_whole_lines


def print_summary() -> None:
    """Print a table (stage, time, main numbers), where things are, and how to go on."""
    from rich.console import Console
    from rich.table import Table

    root = project_root()
    times = _stage_seconds(state_root() / "stage-times.jsonl")
    table = Table("stage", "time", "main numbers")
    for stage, describe in _DESCRIPTIONS.items():
        seconds = f"{times[stage]:.0f} s" if stage in times else "-"
        table.add_row(stage, seconds, _described(describe, root))
    console = Console()
    console.print(table)
    name = read_params(root / "params.yaml").get("register", {}).get("name", "NAME")
    local = "MLFLOW_TRACKING_URI" not in os.environ
    print(_PLACES)
    print(_LOCAL_UI if local else _SERVER_UI.format(uri=os.environ["MLFLOW_TRACKING_URI"]))
    variable = "MLFLOW_TRACKING_URI=sqlite:///mlflow.db " if local else ""
    print(_SERVE.format(variable=variable, name=name, record=_example_request(root)))


def _example_request(root: Path) -> str:
    """A request that the trained model answers: a conditional one wants a class."""
    try:
        labelled = _json(root / "runs/train/training_options.json")["training_set"]["label_dim"]
    except (OSError, ValueError, KeyError):
        labelled = False
    return json.dumps({"seed": 1, "class": 0} if labelled else {"seed": 1})


def _described(describe: Callable[[Path], str], root: Path) -> str:
    try:
        return describe(root)
    except (OSError, ValueError, KeyError, IndexError, TypeError, DataError):
        return "not run yet"


def _stage_seconds(path: Path) -> dict[str, float]:
    """Duration of the last execution of each stage."""
    rows = read_whole_lines(path)
    return {row["stage"]: row["sec"] for row in rows}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _fetch(root: Path) -> str:
    source = _json(root / "data/raw/SOURCE.json")
    return f"{sum(source['counts'].values())} pictures of {source['dataset']}"


def _pack(root: Path) -> str:
    from sg3flow.data.archive import PackedSet

    path = root / "data/packed.zip"
    packed = PackedSet(path)
    side = packed.resolution
    return f"{packed.num_images} pictures of {side}x{side}, {path.stat().st_size / 1e6:.1f} MB"


def _validate(root: Path) -> str:
    checks = _json(root / "reports/validation.json")["checks"]
    passed = sum(bool(check["success"]) for check in checks)
    return f"{passed} of {len(checks)} checks passed"


def _train(root: Path) -> str:
    lines = (root / "runs/train/stats.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    return (
        f"{last['Progress/kimg']['mean']:.0f} kimg, "
        f"{last['Timing/sec_per_kimg']['mean']:.1f} s/kimg, "
        f"G loss {last['Loss/G/loss']['mean']:.3f}, D loss {last['Loss/D/loss']['mean']:.3f}"
    )


def _evaluate(root: Path) -> str:
    report = _json(root / "reports/metrics.json")
    best = report["best"]
    values = report["snapshots"][f"{best['kimg']:06d}"]
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return f"best at {best['kimg']} kimg: {numbers}"


def _render(root: Path) -> str:
    files = [p for p in (root / "renders").iterdir() if p.suffix in (".png", ".mp4")]
    return f"{len(files)} files"


def _register(root: Path) -> str:
    entry = _json(root / "reports/registered.json")
    return f"{entry['name']} version {entry['version']} ({', '.join(entry['aliases'])})"


_DESCRIPTIONS: dict[str, Callable[[Path], str]] = {
    "fetch": _fetch,
    "pack": _pack,
    "validate": _validate,
    "train": _train,
    "evaluate": _evaluate,
    "render": _render,
    "register": _register,
}


_PLACES = """\
pictures:    renders/grid.png, renders/truncation.png, renders/interpolation.mp4,
             runs/train/fakes*.png
data report: reports/validation.html
first:       . .venv/bin/activate"""

_LOCAL_UI = """\
MLflow UI:   mlflow server --backend-store-uri sqlite:///mlflow.db --port 5000
             then http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"""

_SERVER_UI = "MLflow UI:   {uri}"

_SERVE = """\
serve:       {variable}mlflow models serve \\
               -m models:/{name}@champion --env-manager local --port 5001
             curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
               -d '{{"dataframe_records": [{record}]}}'"""
