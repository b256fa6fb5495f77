"""The script for the first minutes on a GPU: here on stand-ins, and its benchmarks on the CPU."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "first_gpu_run.sh"
CALL_SEC = 600  # of a machine that is lent call by call


@pytest.fixture(scope="module", autouse=True)
def programs():
    """As the script finds them: beside itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the script in a folder of its own: it writes to build/."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "benchmarks").mkdir()
    for name in ("first_gpu_run.sh", "gpu_record.py"):
        copy = folder / "benchmarks" / name
        copy.write_bytes((SCRIPT.parent / name).read_bytes())
        copy.chmod(0o755)
    return folder


# Records with the real Python; for the rest it writes a result, and does what BEHAVIOR says.
PYTHON = """#!/bin/bash
if [ "$1" = benchmarks/gpu_record.py ]; then
  if [ "$3" = facts ]; then exit; fi
  exec "{python}" "$@"
fi
echo "ran $*"; echo "complained" >&2
prev=
for word in "$@"; do [ "$prev" = --json ] && echo '[1, 2]' > "$word"; prev=$word; done
for word in "$@"; do
  case $word in --junitxml=*) echo '{xml}' > "${{word#*=}}" ;; esac
done
case "$*" in {behavior} esac
"""
XML = (
    '<testsuites><testsuite><testcase classname="c" name="a"/><testcase classname="c" name="b">'
    '<failure/></testcase><testcase classname="c" name="d"><skipped/></testcase>'
    "</testsuite></testsuites>"
)


def run(project, *arguments, behavior="", **environment) -> subprocess.CompletedProcess[str]:
    python = project / "python"
    python.write_text(PYTHON.format(python=sys.executable, xml=XML, behavior=behavior))
    python.chmod(0o755)
    given = {k: v for k, v in os.environ.items() if k != "OUT"}
    return subprocess.run(
        [project / "benchmarks" / "first_gpu_run.sh", *arguments],
        env=given | {"PYTHON": str(python)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_each_call_ends_in_time(project):
    done = run(project, "--list")
    limits = defaultdict(int)
    for line in done.stdout.splitlines():
        call, _, limit = line.split()
        limits[call] += int(limit) + 5  # to start and to record it
    assert list(limits) == ["1", "2", "3", "4", "5"]
    assert max(limits.values()) <= CALL_SEC - 10  # to kill what does not end
    assert not (project / "build").exists() or not list((project / "build").rglob("*.json"))


def test_a_step_that_fails_or_takes_too_long_does_not_stop_the_others(project, tmp_path):
    fails = "*'--cfg stylegan3-t'*) exit 3 ;; *'--resolution 512 --batch 8'*) exit 124 ;;"
    done = run(project, "2", "3", "--out", str(tmp_path / "out"), behavior=fails)
    assert done.returncode == 1
    assert done.stderr == "failed: convolutions-512 changes-stylegan3-t-256\n"
    record = json.loads((tmp_path / "out" / "first_gpu_run.json").read_text())
    steps = record["steps"]
    assert {name: step["exit"] for name, step in steps.items()} == {
        "tests-without-tensor-cores": 0,
        "convolutions-256": 0,
        "convolutions-512": 124,
        "changes-stylegan3-t-256": 3,
        "changes-stylegan3-r-256": 0,
    }
    assert [name for name, step in steps.items() if step["timed_out"]] == ["convolutions-512"]
    assert steps["changes-stylegan3-r-256"]["results"] == {"changes": [1, 2]}
    tests = {"passed": 1, "failed": 1, "skipped": 1, "names of failed": ["c::b"]}
    assert steps["tests-without-tensor-cores"]["tests"] == tests
    log = steps["convolutions-256"]["log"]
    assert log[0].startswith("ran benchmarks/convolution_forms.py --resolution 256 --batch 16")
    assert log[1:] == ["complained"]
    assert "convolutions-512: stopped after 90 s" in (tmp_path / "out" / "call-2.log").read_text()


def test_the_calls_of_several_runs_are_in_one_record(project):
    for call in ("3", "4"):
        assert run(project, call).returncode == 0
    record = json.loads((project / "build/first-gpu-run/first_gpu_run.json").read_text())
    assert list(record["steps"]) == [
        "changes-stylegan3-t-256", "changes-stylegan3-r-256", "ops", "smoke",
    ]  # fmt: skip
    assert run(project, "4", behavior="*smoke*) exit 1 ;;").returncode == 1
    record = json.loads((project / "build/first-gpu-run/first_gpu_run.json").read_text())
    assert len(record["steps"]) == 4 and record["steps"]["smoke"]["exit"] == 1


def test_missing_tools_are_recorded_not_failed(project):
    path = os.pathsep.join(["/usr/bin", "/bin"])
    done = run(project, "--try", "5", PATH=path)
    record = json.loads((project / "build/first-gpu-run-try/first_gpu_run.json").read_text())
    if "skipped" in record["steps"]["counters"]:
        assert record["steps"]["counters"]["skipped"] == "there is no ncu on PATH"
    assert done.returncode == 0 and set(record["steps"]) == {"memcheck", "racecheck", "counters"}


@pytest.mark.parametrize("arguments", [["6"], ["--fast"], ["--out"]])
def test_an_unknown_argument_is_an_error_of_one_line(project, arguments):
    done = run(project, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_records_of_several_machines_are_merged(tmp_path):
    import gpu_record

    first = {"format": gpu_record.FORMAT, "machine": {"a": 1}, "steps": {"x": 1, "y": 1}}
    second = {"format": gpu_record.FORMAT, "machine": {}, "steps": {"y": 2}}
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    for path, content in zip(paths, (first, second), strict=True):
        gpu_record.write(path, content)
    program = [sys.executable, str(SCRIPT.parent / "gpu_record.py")]
    whole = tmp_path / "whole.json"
    subprocess.run([*program, str(whole), "merge", *map(str, paths)], check=True)
    found = json.loads(whole.read_text())
    assert found["machine"] == {"a": 1} and found["steps"] == {"x": 1, "y": 2}


def test_the_facts_of_a_machine(tmp_path, monkeypatch):
    import gpu_record

    answers = ", ".join(["NVIDIA H200", "GPU-1", "580.1"] + ["0"] * (len(gpu_record._ASKED) - 3))
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answers}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    facts = gpu_record.machine_facts()
    (gpu,) = facts["gpus"]
    assert (gpu["name"], gpu["driver_version"]) == ("NVIDIA H200", "580.1")
    assert {"python", "torch", "nvrtc", "cudnn"} <= set(facts["versions"])
    json.dumps(facts)


TINY = ["--device", "cpu", "--dtype", "float32", "--cbase", "128", "--cmax", "4"]


@pytest.mark.medium
def test_each_form_of_each_convolution_is_measured(tmp_path, monkeypatch):
    import convolution_forms

    monkeypatch.setattr(convolution_forms, "layers_of", first_layers(convolution_forms.layers_of))
    path = tmp_path / "forms.json"
    options = ["--resolution", "16", "--batch", "2", "--repeats", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["x", *TINY, *options])
    convolution_forms.main()
    rows = json.loads(path.read_text())["rows"]
    names = [form.name for form in convolution_forms.FORMS]
    assert len(set(names)) == 8 and len(rows) == 2 * 2
    assert all(row[name] > 0 for row in rows for name in names)
    assert all(row[row["best"]] == min(row[name] for name in names) for row in rows)
    totals = json.loads((tmp_path / "forms-totals.json").read_text())["rows"]
    assert [row["ms"] for row in totals] == sorted(row["ms"] for row in totals)
    assert len(totals) == 16


def first_layers(layers_of):
    return lambda *arguments: layers_of(*arguments)[:2]


def test_all_forms_compute_the_same_convolution(monkeypatch):
    """With equal samples a group of its own weights and a shared weight agree."""
    import torch

    import convolution_forms as forms

    ((plan, kernel),) = forms.layers_of("stylegan3-t", 16, 128, 4)[:1]
    monkeypatch.setattr(torch, "randn", torch.ones)
    found = {}
    for form in forms.FORMS:
        call = forms.make_call(form, plan, kernel, 2, torch.float32, torch.device("cpu"))
        dx, _ = call()
        found[form.name] = dx.flatten().view(2, -1, plan.in_size**2)[:, 0]
        assert dx.numel() % (2 * plan.in_size**2) == 0
    assert torch.equal(found["grouped"], found["shared"])
    macs = forms.teraflops(plan, kernel, 2) * 1e12 / 6
    size = plan.in_size + 2
    assert macs == pytest.approx(2 * size**2 * plan.in_channels * plan.out_channels * 9)


def test_a_form_that_a_gpu_refuses_is_no_result(capsys):
    import torch

    import convolution_forms as forms

    def refuses():
        raise RuntimeError("no engine\nfor this")

    assert forms.milliseconds(refuses, torch.device("cpu"), 1) is None
    assert "failed: no engine" in capsys.readouterr().out
    times = {form.name: None if form.grouped else 2.0 for form in forms.FORMS}
    rows = [{**times, "benchmark": "no"}, {**times, "benchmark": "no"}]
    totals = forms.totals(rows)
    assert {row["form"]: row["ms"] for row in totals if row["benchmark"] == "no"} == {
        form.name: 4.0 for form in forms.FORMS if not form.grouped
    }


@pytest.mark.medium
def test_each_change_of_a_training_is_measured(tmp_path, monkeypatch):
    import training_changes

    monkeypatch.setattr(training_changes, "_WARM_UP", 1)
    path = tmp_path / "changes.json"
    options = ["--resolution", "16", "--batch", "4", "--steps", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["x", *TINY, *options])
    training_changes.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["change"] for row in rows] == [
        "none",
        "none, again",
        "cudnn.benchmark",
        "TF32",
        "Adam by foreach",
    ]
    assert all(row["s/kimg"] > 0 and row["host ms"] <= row["step ms"] for row in rows)
    profiled = json.loads((tmp_path / "changes-profile.json").read_text())["rows"]
    assert any("convolution" in row["operation"] for row in profiled)


def test_a_change_is_in_force_while_it_is_measured(tmp_path, monkeypatch):
    import training_changes
    from sg3flow.precision import current

    seen = {}

    def row(name, parts, options):
        seen[name] = current(), parts
        return {"change": name}

    monkeypatch.setattr(training_changes, "step_row", row)
    monkeypatch.setattr(training_changes, "changed_parts", lambda change, *_: change.settings)
    for change in training_changes.CHANGES:
        assert training_changes.change_row(change, None, tmp_path) == {"change": change.name}
        assert seen[change.name] == (change.precision, change.settings)
    assert {len(seen), len(training_changes.CHANGES)} == {8}


def test_a_change_that_a_gpu_cannot_run_is_a_row_without_figures(tmp_path, monkeypatch, capsys):
    import torch

    import training_changes

    def fails(*_):
        raise torch.OutOfMemoryError("out of memory\nat length")

    monkeypatch.setattr(training_changes, "changed_parts", fails)
    row = training_changes.change_row(training_changes.CHANGES[-1], None, tmp_path)
    assert row["change"] == "Adam by foreach" and row["s/kimg"] is None
    assert capsys.readouterr().out == "Adam by foreach: out of memory\n"
