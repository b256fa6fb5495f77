"""The comparison with other tools: its kept results, their table in the docs, its environment."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))

import environment
from rows import Row
from table import END, SPEED_MARKS, START, fill_in, format_rows, format_speed

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "peers"
RESULTS = json.loads((PEERS / "results.json").read_text())
ROWS = [row for rows in RESULTS["checks"].values() for row in rows]
PINS = dict(
    line.split("==")
    for line in (PEERS / "requirements.txt").read_text().split("\n")
    if "==" in line
)


def test_docs_have_the_table_of_the_results():
    document = (ROOT / "docs" / "metrics.md").read_text()
    assert fill_in(document, format_rows(RESULTS)) == document


def test_results_are_of_the_pinned_versions_and_within_their_limits():
    assert {row["tool"] for row in ROWS} >= {
        "pytorch-fid",
        "clean-fid",
        "torch-fidelity",
        "torchmetrics",
    }
    assert all(row["version"] == PINS[row["tool"]] for row in ROWS)
    assert all(row["limit"] is None or row["difference"] <= row["limit"] for row in ROWS)
    assert all(row["note"] for row in ROWS if row["limit"] is None)
    environment_of = {name: found for name, found in RESULTS["environment"].items() if name in PINS}
    assert {name: found.partition("+")[0] for name, found in environment_of.items()} == {
        name: PINS[name] for name in environment_of
    }


def test_every_check_has_results_and_every_protocol_is_in_them():
    checks = {path.stem.removeprefix("check_") for path in PEERS.glob("check_*.py")}
    assert checks == set(RESULTS["checks"])
    assert {row["name"] for row in ROWS} >= {
        "clean_fid",
        "clean_kid",
        "pytorch_fid",
        "torch_fidelity_fid",
        "torch_fidelity_kid",
        "torchmetrics_fid",
    }
    kept = json.loads((ROOT / "tests" / "metrics" / "peer_values.json").read_text())
    assert kept["versions"] == {tool: PINS[tool] for tool in kept["versions"]}
    fixed = {row["name"]: row["theirs"] for row in RESULTS["checks"]["fixed"] if row["name"]}
    assert fixed == kept["values"]


def test_rows():
    row = Row("a case", "clean-fid", 2.0, 2.5, 0.1)
    assert row.relative == 0.25 and not row.holds
    assert Row("a case", "clean-fid", 2.0, 2.5, 0.1, difference=0.01).holds
    assert not Row("a case", "clean-fid", 2.0, float("nan"), 0.1).holds
    assert Row("a case", "clean-fid", -2.0, -2.0, 0.0).holds


def test_table_and_its_place():
    row = {"case": "c", "tool": "t", "version": "1", "theirs": 1 / 3, "ours": 2.0}
    row |= {"name": "fid", "difference": 5.0, "note": "why"}
    table = format_rows({"checks": {"x": [row]}})
    assert table.splitlines()[-1] == "| c | t 1 | 0.3333333 | 2 | `fid` | 5.0e+00: why |"
    filled = fill_in(f"before\n{START}\nold\n{END}\nafter\n", table)
    assert filled == f"before\n{START}\n\n{table}\n{END}\nafter\n"
    assert fill_in(filled, table) == filled
    with pytest.raises(ValueError, match="the document has no"):
        fill_in("no markers", table)


def test_a_cuda_build_of_torch_is_refused():
    environment.refuse_cuda(["torch", "torchvision", "numpy"])
    with pytest.raises(SystemExit, match=re.escape("(nvidia-cublas, nvidia-nccl-cu13, triton…)")):
        environment.refuse_cuda(["torch", "triton", "nvidia-cublas", "nvidia-nccl-cu13"])


def test_docs_have_the_table_of_times():
    content = json.loads((PEERS / "speed.json").read_text())
    document = (ROOT / "docs" / "metrics.md").read_text()
    assert fill_in(document, format_speed(content), SPEED_MARKS) == document
    assert {row["tool"] for row in content["results"]} == {
        "sg3flow",
        "pytorch-fid",
        "torch-fidelity",
    }
    machine = {name: found.partition("+")[0] for name, found in content["machine"].items()}
    assert all(PINS[name] == found for name, found in machine.items() if name in PINS)
