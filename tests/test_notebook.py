"""notebooks/tutorial.ipynb: what is stored, its commands, and a run of all its cells."""

import ast
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from sg3flow.cli.commands import app

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "tutorial.ipynb"
MOST_BYTES = 1_000_000


def cells(path=NOTEBOOK, kind="code"):
    content = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def source(cell) -> str:
    return "".join(cell["source"])


def outputs(path=NOTEBOOK):
    return [output for cell in cells(path) for output in cell["outputs"]]


def pictures(path=NOTEBOOK) -> int:
    kept = json.dumps(outputs(path))
    return len(re.findall(r'"image/(?:png|jpeg)"|src=\\"data:image/png', kept))


def test_it_was_run_in_order_and_has_pictures():
    counts = [cell["execution_count"] for cell in cells()]
    assert counts == list(range(1, len(counts) + 1))
    assert not [o for o in outputs() if o["output_type"] == "error"]
    assert pictures() >= 10
    assert NOTEBOOK.stat().st_size < MOST_BYTES


def test_it_names_no_place_of_a_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    for place in ("/root", "/home/", "/tmp", "/work", "/opt/", "/Users/", "site-packages"):
        assert place not in text, place


def test_one_line_changes_for_a_gpu():
    lines = [line for cell in cells() for line in source(cell).splitlines()]
    assert sum(line.startswith("WITH_GPU = ") for line in lines) == 1
    assert not [
        line for line in lines if "cuda" in line and not line.lstrip().startswith("settings")
    ]


def test_its_commands_have_the_options_of_today():
    command = typer.main.get_command(app)
    found = []
    for cell in cells():
        magic, _, text = source(cell).partition("\n")
        if magic == "%%bash":
            for line in text.replace("\\\n", " ").splitlines():
                program, *words = [re.sub(r"^\$\w+$", "1", word) for word in shlex.split(line)]
                assert program == "sg3flow"
                context = command.make_context("sg3flow", list(words))
                rest = [*context._protected_args, *context.args]
                _, sub, left = command.resolve_command(context, rest)
                given = ["cpu" if left[i - 1] == "--device" else w for i, w in enumerate(left)]
                _parse(sub, given)
                found.append(words[0])
    assert found == ["fetch", "pack", "validate", "train", "evaluate"]


def _parse(command, words):
    context = command.make_context(command.name or "command", list(words))
    if hasattr(command, "resolve_command"):
        _, sub, left = command.resolve_command(context, [*context._protected_args, *context.args])
        _parse(sub, left)


def test_its_cells_are_python():
    for cell in cells():
        text = source(cell)
        if not text.startswith("%%"):
            ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", text, flags=re.MULTILINE))


def _script():
    spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stored_outputs_have_one_form_of_a_picture_and_no_places(tmp_path):
    for name in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[dev]'")
    import nbformat

    cell = nbformat.v4.new_code_cell("x", metadata={"execution": {"iopub.status.busy": "now"}})
    data = {"image/png": "p", "image/jpeg": "j", "text/plain": f"{tmp_path}/a {Path.home()}/b"}
    cell.outputs = [
        nbformat.v4.new_output("display_data", data),
        nbformat.v4.new_output("stream", name="stdout", text="\x1b[1mbo"),
        nbformat.v4.new_output("stream", name="stderr", text="training: 1/2 in 3 s\n"),
        nbformat.v4.new_output("stream", name="stdout", text=f"ld\x1b[0m in {tmp_path}\n"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    _script().strip(notebook, tmp_path)
    shown, said = notebook.cells[0].outputs
    assert shown["data"] == {"image/jpeg": "j", "text/plain": "a ~/b"}
    assert said["text"] == "bold in .\n" and notebook.cells[0].metadata == {}


@pytest.mark.slow
def test_all_cells_run_in_a_new_folder(tmp_path):
    for name in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed, so no cell was run: pip install '.[dev]'")
    copy = Path(shutil.copy(NOTEBOOK, tmp_path / "tutorial.ipynb"))
    script = ROOT / "notebooks" / "execute.py"
    done = subprocess.run(
        [sys.executable, script, copy], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert pictures(copy) == pictures()
    assert copy.stat().st_size < MOST_BYTES
    text = copy.read_text(encoding="utf-8")
    for words in ("fd_random200_full", "starting from starter", "snapshots in runs/train"):
        assert words in text
    assert str(tmp_path) not in text and str(Path.home()) + "/" not in text
