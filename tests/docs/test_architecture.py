"""The picture and the table of docs/architecture.md name the layers that import-linter checks."""

import importlib.util
import re
import subprocess
import sys

from .conftest import ROOT

SCRIPT = ROOT / "docs" / "draw_architecture.py"
PACKAGE = ROOT / "src" / "sg3flow"


def _script():
    spec = importlib.util.spec_from_file_location("draw_architecture", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_up_to_date():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_picture_names_every_layer_and_stage():
    script = _script()
    picture = script.PICTURE.read_text(encoding="utf-8")
    shown = set(re.findall(r"[\w]+", picture))
    layers = {name for layer in script.read_layers() for name in layer} - {script.ENTRY_POINT}
    assert layers | set(script.read_stages()) <= shown


def test_the_table_names_every_package_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)/`", row.split("|")[1])}
    folders = {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and not path.name.startswith("_")
    }
    assert named == folders
