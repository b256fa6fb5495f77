"""The benchmark of a GPU runs through; on a CPU it is only tried."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.medium

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*options):
    command = [sys.executable, str(PROGRAM), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_row_is_there_and_is_a_time(tmp_path):
    sizes = ["--resolutions", "16", "--cbase", "128", "--cmax", "4", "--samples", "1"]
    counts = ["--repeats", "1", "--times", "1", "--batch", "4", "--steps", "1"]
    path = tmp_path / "rows.json"
    done = run("--device", "cpu", "--dtype", "float32", *sizes, *counts, "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["rows"]
    assert {row["op"].split()[0] for row in rows} == {"t", "r"} and len(rows) == 2 * 14 * 2
    assert all(row["plain ms"] > 0 and row["kernels ms"] > 0 and row["copy ms"] > 0 for row in rows)
    steps = json.loads((tmp_path / "rows-training.json").read_text())["rows"]
    names = ["stylegan3-t 16 training", "stylegan3-r 16 training", "stylegan2 16 training"]
    assert [row["op"] for row in steps] == names
    assert all(row["plain s/kimg"] > 0 and row["kernels s/kimg"] > 0 for row in steps)


def test_without_a_gpu_it_says_so():
    if not torch.cuda.is_available():
        done = run()
        assert done.returncode == 0 and "skipped: no CUDA device is visible" in done.stdout
