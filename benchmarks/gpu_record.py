"""The one JSON of `first_gpu_run.sh`: facts about the machine, and the outcome of every step.

python benchmarks/gpu_record.py RECORD facts
python benchmarks/gpu_record.py RECORD step NAME FOLDER --exit CODE --seconds S --limit S
python benchmarks/gpu_record.py RECORD skip NAME REASON
python benchmarks/gpu_record.py RECORD merge OTHER...

The exit code is 3 for a step that ended without an error and skipped all its work.

A step's folder holds its output (`log`), its results (`*.json`) and those of pytest (`*.xml`). A
repeated step replaces its earlier outcome; all others stay.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

FORMAT = "sg3flow-gpu-run-1"
_TIMED_OUT = (124, 137)  # of `timeout`
_MOST_LINES = 200
_ASKED = (
    *("name", "uuid", "driver_version", "memory.total", "memory.used", "compute_cap"),
    *("mig.mode.current", "power.limit", "clocks.max.sm", "clocks.max.mem", "ecc.mode.current"),
)
Content = dict[str, Any]


def read(record: Path) -> Content:
    """The content of a record; a new one if there is no file."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"format": FORMAT, "machine": {}, "steps": {}}
    except ValueError:
        sys.exit(f"error: {record} is no record of a run; move it away")


def write(record: Path, content: Content) -> None:
    """Replace a record; it is whole at any time."""
    record.parent.mkdir(parents=True, exist_ok=True)
    part = record.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, record)


def output_of(*command: str) -> str:
    """What a program prints; empty: there is none, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def gpus() -> list[dict[str, str]]:
    """What nvidia-smi says about each GPU."""
    rows = output_of("nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader")
    values = [[part.strip() for part in row.split(",")] for row in rows.splitlines()]
    return [dict(zip(_ASKED, each, strict=False)) for each in values]


def versions() -> dict[str, str]:
    """Versions of Python, torch and the CUDA libraries, and whether torch sees a GPU."""
    import torch

    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda of torch": torch.version.cuda or "",
        "cudnn": str(cudnn or ""),
        "nvrtc": nvrtc_version(),
        "nvcc": (output_of("nvcc", "--version").splitlines() or [""])[-1],
        "devices": ", ".join(
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ),
    }


def nvrtc_version() -> str:
    """The NVRTC that compiles the kernels here, or why there is none."""
    from sg3flow.errors import ConfigError
    from sg3flow.ops.cuda_launch import cuda_compiler

    try:
        return cuda_compiler()
    except ConfigError as error:
        return f"none: {error}"


def machine_facts() -> Content:
    """This machine, and the commit of the code."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        "commit": output_of("git", "rev-parse", "HEAD"),
        "host": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "tools": {
                name: bool(shutil.which(name))
                for name in ("nvcc", "ninja", "compute-sanitizer", "ncu")
            },
        },
        "gpus": gpus(),
        "versions": versions(),
    }


def outcome(folder: Path, code: int, seconds: float, limit: float) -> Content:
    """The outcome of a step from its folder."""
    lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
    found: Content = {
        "exit": code,
        "timed_out": code in _TIMED_OUT,
        "seconds": seconds,
        "limit": limit,
        "log": lines[-_MOST_LINES:],
    }
    # A program that is killed may leave half a file.
    for path in sorted(folder.glob("*.json")):
        try:
            found.setdefault("results", {})[path.stem] = json.loads(path.read_text())
        except ValueError:
            found.setdefault("damaged", []).append(path.name)
    for path in folder.glob("*.xml"):
        try:
            found["tests"] = test_counts(path)
        except ET.ParseError:
            found.setdefault("damaged", []).append(path.name)
    return found


def test_counts(path: Path) -> dict[str, Any]:
    """Passed, failed and skipped tests of pytest's XML, and the names of those that failed."""
    counts: Counter[str] = Counter()
    failed = []
    for case in ET.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "skipped"
        counts["passed" if not kinds & {"failure", "error", "skipped"} else state] += 1
        if state == "failed":
            failed.append(f"{case.get('classname')}::{case.get('name')}")
    return {**counts, "names of failed": failed[:50]}


def ran_nothing(step: Content) -> bool:
    """Whether a step skipped all its work."""
    tests = step.get("tests", {})
    only_skips = bool(tests.get("skipped")) and not tests.get("passed") and not tests.get("failed")
    return only_skips or any(line.startswith("skipped: ") for line in step["log"][-1:])


def summary(name: str, step: Content) -> str:
    """One line about a step."""
    if "skipped" in step:
        return f"{name}: skipped, {step['skipped']}"
    state = "passed" if step["exit"] == 0 else f"exit {step['exit']}"
    state = f"stopped after {step['limit']:.0f} s" if step["timed_out"] else state
    tests = step.get("tests", {})
    if step["exit"] == 0 and ran_nothing(step):
        state = "skipped all its work"
    state += "".join(f", {file} is damaged" for file in step.get("damaged", []))
    counts = [f"{tests[key]} {key}" for key in ("passed", "failed", "skipped") if tests.get(key)]
    return f"{name}: {', '.join([state, *counts])} ({step['seconds']:.0f} s)"


def merged(contents: list[Content]) -> Content:
    """Several records as one; of a step that is in several, the last outcome counts."""
    whole = read(Path(os.devnull) / "none") if not contents else dict(contents[0])
    for content in contents[1:]:
        whole["machine"] = content["machine"] or whole["machine"]
        whole["steps"] = {**whole["steps"], **content["steps"]}
    return whole


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("facts")
    step = actions.add_parser("step")
    step.add_argument("name")
    step.add_argument("folder", type=Path)
    step.add_argument("--exit", type=int, required=True)
    step.add_argument("--seconds", type=float, required=True)
    step.add_argument("--limit", type=float, required=True)
    skip = actions.add_parser("skip")
    skip.add_argument("name")
    skip.add_argument("reason")
    actions.add_parser("merge").add_argument("others", type=Path, nargs="+")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    code = 0
    content = read(options.record)
    if options.action == "facts":
        content["machine"] = machine_facts()
    elif options.action == "merge":
        content = merged([content, *map(read, options.others)])
    else:
        if options.action == "skip":
            step: Content = {"skipped": options.reason}
        else:
            step = outcome(options.folder, options.exit, options.seconds, options.limit)
            code = 3 if step["exit"] == 0 and ran_nothing(step) else 0
        content["steps"][options.name] = step
        print(summary(options.name, step))
    write(options.record, content)
    return code


if __name__ == "__main__":
    sys.exit(main())
