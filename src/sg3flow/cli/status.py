"""Reports for a terminal: the results of the pipeline, and the kernels of this machine.

`sg3flow summary` prints the first, `sg3flow doctor` the second.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sg3flow.addresses import shown_url
from sg3flow.data.packed_form import label_vectors
from sg3flow.device import open_device, unlike_gpus, unusable_gpu
from sg3flow.errors import ConfigError, DataError, MetricError
from sg3flow.kernels.build import RECORD, make_build
from sg3flow.kernels.cuda_compile import remove_compiled
from sg3flow.ops.backend import load_cuda_kernels, load_kernels
from sg3flow.ops.cuda_launch import cuda_compiler
from sg3flow.ops.self_check import CPU_PART, CUDA_PARTS, TOLERANCES, check_part, largest_error
from sg3flow.params_file import read_params
from sg3flow.precision import EXACT, override
from sg3flow.runs.best_snapshot import best_snapshot
from sg3flow.runs.run_folder import OPTIONS, PROVENANCE, STATS, read_whole_lines
from sg3flow.settings import (
    OPS,
    TENSOR_CORES,
    kernels_folder,
    local_artifacts,
    local_database,
    project_root,
    stage_times_path,
)
from sg3flow.tracking.mlflow_store import tracking_uri
from sg3flow.tracking.relocation import find_relocations, follow_project

_PLACES = """\
images:      renders/grid.png, renders/truncation.png, renders/interpolation.mp4,
             runs/train/fakes*.png
data report: reports/validation.html"""
_ENVIRONMENT = "environment: . .venv/bin/activate"
_LOCAL_UI = """\
MLflow UI:   mlflow server --backend-store-uri sqlite:///mlflow.db --workers 1 --port 5000
             open http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=sg3flow"""
_SERVER_UI = "MLflow UI:   {uri}"
_SERVE = """\
serve:       {variable}mlflow models serve \\
               -m models:/{name}@champion --env-manager local --port 5001
             curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\
               -d '{{"dataframe_records": [{record}]}}'"""


def print_summary() -> None:
    """Print a table (stage, time, main results), the output files and the next commands."""
    from rich.console import Console
    from rich.table import Table

    root = project_root()
    name = read_params(root / "params.yaml").get("register", {}).get("name", "NAME")
    times = _stage_seconds(stage_times_path())
    table = Table("stage", "time", "results")
    for stage, describe in _DESCRIPTIONS.items():
        seconds = f"{times[stage]:.0f} s" if stage in times else "-"
        table.add_row(stage, seconds, _described(describe, root))
    console = Console()
    console.print(table)
    local = "MLFLOW_TRACKING_URI" not in os.environ
    for each in find_relocations(local_database(), root) if local else ():
        print(f"note: {each.refusal or each.advice()}")
    print(_PLACES)
    if (root / ".venv").is_dir():  # as `make demo` makes it
        print(_ENVIRONMENT)
    print(_LOCAL_UI if local else _SERVER_UI.format(uri=os.environ["MLFLOW_TRACKING_URI"]))
    variable = "MLFLOW_TRACKING_URI=sqlite:///mlflow.db " if local else ""
    print(_SERVE.format(variable=variable, name=name, record=_example_request(root)))


def _example_request(root: Path) -> str:
    """A request for the trained model; a conditional model needs a class or a label."""
    try:
        training_set = _json(root / "runs/train" / OPTIONS)["training_set"]
        if not training_set["label_dim"]:
            return json.dumps({"seed": 1})
        if training_set.get("label_kind") == "vectors":
            path = _json(root / "runs/train" / PROVENANCE)["data"]["path"]
            return json.dumps({"seed": 1, "label": label_vectors(root / path)[0]})
        return json.dumps({"seed": 1, "class": 0})
    except (OSError, ValueError, KeyError, IndexError, TypeError, DataError):
        return json.dumps({"seed": 1})


def _described(describe: Callable[[Path], str], root: Path) -> str:
    try:
        return describe(root)
    except (OSError, ValueError, KeyError, IndexError, TypeError, DataError, MetricError):
        return "not run yet"


def _stage_seconds(path: Path) -> dict[str, float]:
    """Duration of the last run of each stage."""
    rows = read_whole_lines(path)
    return {row["stage"]: row["sec"] for row in rows}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _fetch(root: Path) -> str:
    source = _json(root / "data/raw/SOURCE.json")
    return f"{sum(source['counts'].values())} images of {source['dataset']}"


def _pack(root: Path) -> str:
    from sg3flow.data.archive import PackedSet

    path = root / "data/packed.zip"
    packed = PackedSet(path)
    side = packed.resolution
    return f"{packed.num_images} images of {side}x{side}, {path.stat().st_size / 1e6:.1f} MB"


def _validate(root: Path) -> str:
    checks = _json(root / "reports/validation.json")["checks"]
    passed = sum(bool(check["success"]) for check in checks)
    return f"{passed} of {len(checks)} checks passed"


def _train(root: Path) -> str:
    last = read_whole_lines(root / "runs/train" / STATS)[-1]
    return (
        f"{last['Progress/kimg']['mean']:.0f} kimg, "
        f"{last['Timing/sec_per_kimg']['mean']:.1f} s/kimg, "
        f"G loss {last['Loss/G/loss']['mean']:.3f}, D loss {last['Loss/D/loss']['mean']:.3f}"
    )


def _evaluate(root: Path) -> str:
    best = best_snapshot(root / "reports/metrics.json")
    numbers = ", ".join(f"{name} {row['value']:.4g}" for name, row in best.results.items())
    return f"best at {best.kimg} kimg: {numbers}"


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


def examine_store(repair: bool = False) -> Iterator[str]:
    """Lines about the tracking store, which is not contacted.

    Args:
        repair: correct the artifact addresses of a moved or copied project.

    Raises:
        TrackingError: the database cannot be written.
    """
    uri, database = tracking_uri(), local_database()
    yield f"tracking: {shown_url(uri)}"
    if not database.is_file():
        if repair:
            yield f"  nothing to repair: there is no {database}"
        return
    if repair:
        yield from [f"  {line}" for line in follow_project(database, project_root(), force=True)]
        yield f"  {database}: its artifacts are in {local_artifacts()}"
        return
    for each in find_relocations(database, project_root()):
        yield f"  {each.refusal or each.advice()}"


def examine(rebuild: bool = False) -> Iterator[str]:
    """Lines about this machine: torch, and for CPU and GPU the kernels that run and their check.

    Args:
        rebuild: rebuild the kernels first.

    Raises:
        ConfigError: the kernels of a device cannot be rebuilt, or a variable that selects kernels
            has an unknown value.
    """
    setting = OPS.choice()
    TENSOR_CORES.choice()
    capability = torch.backends.cpu.get_cpu_capability()
    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads, CPU {capability}"
    yield f"SG3FLOW_OPS={setting}"
    yield f"precision on a GPU: {EXACT.words()} (train --tf32 changes it) {override()}".rstrip()
    yield from _examine_device("cpu", rebuild)
    if torch.cuda.is_available():
        try:
            open_device("cuda")
        except ConfigError as error:
            yield f"cuda: {error}"
            return
        yield from _examine_device("cuda", rebuild)
        if words := unlike_gpus(torch.cuda.device_count()):
            yield f"  {words}"
    else:
        yield f"cuda: no GPU is visible to this torch ({_cuda_of_torch()})"
        if problem := unusable_gpu():
            yield f"  {problem}"
        yield f"  {_toolkit()}"


def _examine_device(name: str, rebuild: bool) -> Iterator[str]:
    if rebuild:
        _rebuild(name)
    setting = OPS.text()
    try:
        if setting not in ("auto", name):
            yield f"{name}: pure PyTorch, because SG3FLOW_OPS={setting}"
            return
        lines = _examine_cpu() if name == "cpu" else _examine_gpus()
    except ConfigError as error:
        outcome = "pure PyTorch" if setting == "auto" else "every op fails"
        yield f"{name}: {outcome}, because {error}"
        return
    yield from lines


def _rebuild(name: str) -> None:
    if name == "cpu":
        make_build(clean=True)
    else:
        remove_compiled()


def _examine_cpu() -> list[str]:
    library = load_kernels("cpu")
    record = json.loads((library.parent / RECORD).read_text(encoding="utf-8"))
    size = largest_error("cpu", CPU_PART, torch.float32)
    return [
        f"cpu: compiled kernels for {torch.ops.sg3flow.cpu_instruction_set()}, "
        f"built in {record['seconds']:.0f} s by {', '.join(record['compilers'])}",
        f"  {library}",
        f"  largest difference from pure PyTorch: {size:.0e}, rounding",
    ]


def _examine_gpus() -> list[str]:
    """Compile and check all kernels on every GPU that is visible."""
    lines = [f"cuda: compiled kernels by {load_cuda_kernels()}", f"  {kernels_folder()}"]
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        lines.append(f"  {torch.cuda.get_device_name(index)}, largest difference from float64:")
        for dtype in TOLERANCES:
            for part in CUDA_PARTS:
                check_part(device, part, dtype)
            sizes = ", ".join(f"{largest_error(device, p, dtype):.0e} ({p})" for p in CUDA_PARTS)
            lines.append(f"    {str(dtype).removeprefix('torch.')}: {sizes}")
    return lines


def _cuda_of_torch() -> str:
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"


def _toolkit() -> str:
    """Whether kernels for a GPU could be compiled here, and by what."""
    try:
        named = cuda_compiler()
    except ConfigError as error:
        return f"on a GPU the ops would run in pure PyTorch, because {error}"
    return f"kernels for a GPU could be compiled: {named}"
